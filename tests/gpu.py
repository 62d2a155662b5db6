#!/usr/bin/env python3
"""Compares the trainer on a GPU with the trainer on the CPU, on the quickstart's toy model: `make gpu-test`.

A GPU may be emulated: what counts is which libcuda.so.1 the trainer finds. Each check prints a line; the exit code is 1 if one
failed. Numbers in F32 must agree to rounding, tokens exactly; in BF16 both stages must end in adapters that pass their proof.

An emulated driver that takes GPU_MEMORY, GPU_FAIL and GPU_PROFILE also shows that a step's peak is what it expected, and that
neither a smaller GPU nor a failed allocation changes a byte. A real driver ignores them.
"""

import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "quickstart"
IMAGES, INSTRUCTIONS = 6, 6
# GPUs on which the toy keeps the activations of most layers, of some, and of none. Each has room for its weights.
SMALLER = ("13M", "11M", "10M")
# The moments of the step at which an allocation fails: in its first and in its last third.
FAILED_ALLOCATIONS = (9000, 15000)
PEAK = 0.1
# Sums of a few hundred products in another order.
LOG_PROBS, RELATIVE = 1e-4, 1e-4
STAGE_ONE = """
apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {{name: scenes}}
spec:
  model: {{volume: {{claimName: models, path: scenes-llava}}}}
  images: {{volume: {{claimName: images, path: unlabelled}}, limit: {images}}}
  preferences: {{sampling: {{maxNewTokens: 24, temperature: "0"}}}}
  training:
    precision: {precision}
    lora: {{rank: 4, alpha: 24}}
    optimizer: {{learningRate: "1e-3"}}
    globalBatchSize: 2
  pod: {pod}
  output: {{volume: {{claimName: stic, path: scenes}}}}
"""
STAGE_TWO = """
apiVersion: stic.dev/v1alpha1
kind: StageTwoRun
metadata: {{name: scenes}}
spec:
  initFrom: {{stageOneRunRef: {{name: scenes}}}}
  instructions: {{volume: {{claimName: instructions}}, file: instructions.json, limit: {instructions}}}
  images: {{volume: {{claimName: instructions}}}}
  description: {{sampling: {{maxNewTokens: 24, temperature: "0"}}}}
  training: {{precision: {precision}, optimizer: {{learningRate: "1e-3"}}, globalBatchSize: 2}}
  pod: {pod}
  output: {{volume: {{claimName: stic, path: scenes}}}}
"""


class Checks:
    def __init__(self):
        self.failed = 0

    def check(self, what, passed, measured=""):
        self.failed += not passed
        print(f"{'ok    ' if passed else 'FAILED'} {what}{f': {measured}' if measured else ''}", flush=True)


class Machine:
    """The programs, one of whose trainers runs."""

    def __init__(self, kubectl_stic, trainer, work):
        self.kubectl_stic, self.trainer, self.work = kubectl_stic, trainer, work

    def run_both(self, precision, name=None, **driver):
        """Runs both stages, with variables for the driver, and returns the folder of the artifacts."""
        work = self.work / (name or precision)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        manifest = work / "runs.yaml"
        # In BF16 the steps ask for a GPU, which a trainer without CUDA refuses.
        pod = "{resources: {limits: {nvidia.com/gpu: 1}}}" if precision == "BF16" else "{}"
        values = {"precision": precision, "images": IMAGES, "instructions": INSTRUCTIONS, "pod": pod}
        manifest.write_text("---".join(text.format(**values) for text in (STAGE_ONE, STAGE_TWO)))
        volumes = [f"--volume={claim}={EXAMPLE / 'volumes' / claim}" for claim in ("models", "images", "instructions")]
        command = [self.kubectl_stic, "run", "-f", manifest, "--work-dir", work, "--trainer", self.trainer, *volumes]
        driver.setdefault("GPU_PROFILE", str(work / "profile-%p.json"))
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | driver)
        if ended.returncode:
            sys.exit(f"{self.trainer} in {precision}: exit code {ended.returncode}\n{ended.stderr[-3000:]}")
        return work / "volumes" / "stic" / "scenes"

    def tool(self, *arguments):
        ended = subprocess.run([self.trainer, *arguments], capture_output=True, text=True, check=False)
        if ended.returncode:
            sys.exit(f"{self.trainer} {arguments[0]}: exit code {ended.returncode}\n{ended.stderr[-3000:]}")
        return ended.stdout


def payload(output, kind, name):
    """The bytes of an artifact's file, of which there is one in each stage's order."""
    return [path.read_bytes() for path in sorted(output.glob(f"{kind}-*/{name}"))]


def adapters(output):
    """The adapters of stage 1 and of stage 2, as their cards say."""
    return sorted(output.glob("adapter-*"), key=lambda path: "STIC stage 2" in (path / "README.md").read_text())


def tensors(file):
    data = file.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    for name, tensor in sorted(header.items()):
        if name != "__metadata__":
            assert tensor["dtype"] == "F32", tensor
            start, end = tensor["data_offsets"]
            yield name, struct.unpack(f"<{(end - start) // 4}f", data[8 + length + start : 8 + length + end])


def distance(one, other):
    """The largest difference of two adapters' tensors, relative to the largest value of each."""
    largest = 0.0
    for (name, a), (other_name, b) in zip(tensors(one), tensors(other), strict=True):
        assert name == other_name
        scale = max(map(abs, a)) or 1.0
        largest = max(largest, max(abs(x - y) for x, y in zip(a, b, strict=True)) / scale)
    return largest


def metrics(adapter):
    return [json.loads(line) for line in (adapter / "metrics.jsonl").read_text().splitlines()]


def compare_training(checks, stage, cpu, gpu):
    for name in ("loss", "grad_norm"):
        pairs = [(a[name], b[name]) for a, b in zip(metrics(cpu), metrics(gpu), strict=True)]
        worst = max(abs(a - b) / max(abs(a), 1e-6) for a, b in pairs)
        checks.check(f"F32, stage {stage}: {name} of {len(pairs)} steps", worst <= RELATIVE, f"{worst:.1e} apart, relative")
    file = "adapter_model.safetensors"
    apart = distance(cpu / file, gpu / file)
    # Adam's first steps have the size of the learning rate whatever the gradient's: where that is near 0, rounding decides
    # its sign.
    checks.check(f"F32, stage {stage}: the adapters", apart <= 1e-2, f"{apart:.1e} apart, relative")


def compare_scores(checks, cpu, gpu, adapter, work):
    rows = [{"id": f"{i}", "image": f"scene-{i:03}.jpg", "prompt": "Describe the image.", "response": "A red circle."} for i in range(4)]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["score", "--model", EXAMPLE / "volumes/models/scenes-llava", "--adapter", adapter, "--input", work / "rows.jsonl"]
    arguments += ["--images", EXAMPLE / "volumes/heldout/images"]
    scores = [[json.loads(line) for line in machine.tool(*arguments).splitlines()] for machine in (cpu, gpu)]
    pairs = [(a, b) for of_cpu, of_gpu in zip(*scores, strict=True) for a, b in zip(of_cpu["logprobs"], of_gpu["logprobs"], strict=True)]
    worst = max(abs(a - b) for a, b in pairs)
    checks.check(f"F32: score, {len(pairs)} log-probabilities", worst <= LOG_PROBS, f"{worst:.1e} apart")


def compare_evaluations(checks, cpu, gpu, adapter, work):
    model, heldout = EXAMPLE / "volumes/models/scenes-llava", EXAMPLE / "volumes/heldout"
    arguments = ["evaluate", "--model", model, "--adapter", f"tuned={adapter}", "--benchmark", f"Scenes={heldout}", "--limit", 8]
    tables = [machine.tool(*arguments, "--output", machine.work / "evaluation") for machine in (cpu, gpu)]
    checks.check("F32: evaluate prints the same table", tables[0] == tables[1])


def check_peaks(checks, work):
    """Compares the peak of each step, if the driver counts it, with what the step expected."""
    profiles = sorted(work.glob("profile-*.json"), key=lambda path: path.stat().st_mtime)
    steps = [("stageonerun", "generate"), ("stageonerun", "train"), ("stagetworun", "describe"), ("stagetworun", "train")]
    if not profiles:
        return
    for (kind, step), profile in zip(steps, profiles, strict=True):
        log = (work / "runs/default" / kind / "scenes" / f"{step}.log").read_text()
        expected = int(re.findall(r"expected_bytes=(\d+)", log)[-1])
        peak = json.loads(profile.read_text())["memory"]["peak_bytes"]
        off = expected / peak - 1
        checks.check(f"{work.name}: memory of {kind} {step}", abs(off) <= PEAK, f"{peak:,} bytes, {off:+.1%} expected")


def train_logs(work):
    return [(work / f"runs/default/{kind}/scenes/train.log").read_text() for kind in ("stageonerun", "stagetworun")]


def kept_layers(work):
    """How many layers kept their activations, in both stages."""
    return [int(re.findall(r"; (\d+) of \d+ layers keep", log)[-1]) for log in train_logs(work)]


def compare_memories(checks, gpu, expected):
    """Runs BF16 on smaller GPUs, and with an allocation that fails: nothing changes a byte."""

    def same(what, output):
        found = [path.joinpath("adapter_model.safetensors").read_bytes() for path in adapters(output)]
        checks.check(f"BF16: {what} changes no byte of an adapter", found == expected)

    before = kept_layers(gpu.work / "BF16")
    for memory in SMALLER:
        output = gpu.run_both("BF16", f"BF16-{memory}", GPU_MEMORY=memory)
        work = gpu.work / f"BF16-{memory}"
        same(f"a GPU of {memory}", output)
        kept = kept_layers(work)
        checks.check(f"BF16: a GPU of {memory} keeps fewer layers", sum(kept) < sum(before), f"{kept} instead of {before}")
        check_peaks(checks, work)
        before = kept
    for count in FAILED_ALLOCATIONS:
        name = f"BF16-alloc-{count}"
        output = gpu.run_both("BF16", name, GPU_FAIL=f"alloc:{count}=CUDA_ERROR_OUT_OF_MEMORY")
        same(f"allocation {count} of each step, which fails,", output)
        fell_back = all("ran out of memory" in log for log in train_logs(gpu.work / name))
        checks.check(f"BF16: allocation {count} fails in both trainings", fell_back)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True, help="the folder of kubectl-stic and of the CPU's stic-trainer")
    parser.add_argument("--trainer", type=Path, required=True, help="the trainer with CUDA")
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    kubectl_stic = arguments.programs / "kubectl-stic"
    cpu = Machine(kubectl_stic, arguments.programs / "stic-trainer", arguments.work / "cpu")
    gpu = Machine(kubectl_stic, arguments.trainer, arguments.work / "gpu")
    checks = Checks()

    outputs = [machine.run_both("F32") for machine in (cpu, gpu)]
    for kind, name in (("preferences", "preferences.jsonl"), ("descriptions", "descriptions.jsonl")):
        of_cpu, of_gpu = (payload(output, kind, name) for output in outputs)
        checks.check(f"F32: {kind} have the same tokens", of_cpu == of_gpu and len(of_cpu) > 0)
    (one_cpu, two_cpu), (one_gpu, two_gpu) = map(adapters, outputs)
    compare_training(checks, 1, one_cpu, one_gpu)
    compare_training(checks, 2, two_cpu, two_gpu)
    compare_scores(checks, cpu, gpu, one_cpu, arguments.work)
    compare_evaluations(checks, cpu, gpu, one_cpu, arguments.work)

    output = gpu.run_both("BF16")
    first = metrics(adapters(output)[0])[0]
    checks.check("BF16: both stages end in adapters that pass their proof", len(adapters(output)) == 2)
    checks.check("BF16: a fresh adapter has no margin", first["rewards/margins"] == 0.0, f"{first['rewards/margins']}")
    fresh = metrics(one_gpu)[0]
    checks.check("F32: a fresh adapter has no margin", fresh["rewards/margins"] == 0.0, f"{fresh['rewards/margins']}")
    for precision in ("F32", "BF16"):
        check_peaks(checks, gpu.work / precision)
    if not any((gpu.work / "BF16").glob("profile-*.json")):
        print("not run: what smaller GPUs and failed allocations change; an emulated driver shows it")
        sys.exit(1 if checks.failed else 0)
    compare_memories(checks, gpu, [path.joinpath("adapter_model.safetensors").read_bytes() for path in adapters(output)])
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
