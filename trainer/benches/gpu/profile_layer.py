"""Counts what the CUDA trainer does at the widths of a 7B, on an emulated driver: the input of the predictions of `bench.py`.

    python trainer/benches/gpu/profile_layer.py --trainer target/cuda/stic-trainer [--only train,prefill,decode]

Needs no GPU, but a libcuda.so.1 in the library path that writes every call into the file GPU_TRACE, and totals into GPU_PROFILE.
Writes counted.json. Takes about an hour on two cores.

Emulation is slow, so the model is never whole. Costs are differences of runs that differ by one thing: a layer of the language
model, a layer of the vision tower, the vocabulary, an optimizer step, or the tokens of the image (decoding is linear in those).
"""

import argparse
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prediction import COUNTED, RANK, Counts, combine, outside_layers
from random_model import CROPS, Shape
from runs import BOTH, ONE, Volumes, generation, training

# Everything but the layer of the language model is as small as it gets.
SMALL = Shape(layers=1, vocabulary=512, vision_layers=2, vision_hidden=64)
SHORT = replace(SMALL, crop=28)  # 24 tokens an image
LONGER = replace(SMALL, crop=168)  # 594
FULL_VOCABULARY, WIDE_TOWER = {"vocabulary": 32064}, {"vision_hidden": 1024}
DECODED = 4  # tokens of a response: the first is part of the prefill
ROWS = {"1": (1, ONE), "2": (1, BOTH), "16": (8, BOTH), "64": (32, BOTH)}  # responses at once: images, responses to each


def value(words: list[str], name: str) -> float:
    """The number after a word of a line."""
    return float(words[words.index(name) + 1]) if name in words else 0.0


def group(words: list[str]) -> str:
    """What a line of a trace is counted as. Products of the same group are limited by the same: bytes or FLOPs."""
    if words[0] == "kernel":
        return f"kernel {words[1]}"
    batched = " batched" if value(words, "batch") > 1 else ""
    thin = " thin" if min(value(words, side) for side in "mnk") <= RANK else ""
    return f"product {words[1]}{batched}{thin}"


def count(lines: list[list[str]]) -> Counts:
    """The sums over some lines of a trace."""
    counts: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0, 0.0])
    for words in lines:
        if words[0] in ("kernel", "gemm"):
            moved = value(words, "read") + value(words, "written") + value(words, "bytes")
            name, flops = group(words), value(words, "mma") + value(words, "flops")
        elif words[0] in ("alloc", "HtoD", "DtoH", "DtoD", "memset"):
            name, moved, flops = words[0], float(words[1]), 0.0
        else:
            continue
        counts[name] = [a + b for a, b in zip(counts[name], (1, moved, flops), strict=True)]
    return dict(counts)


def minus(a: Counts, b: Counts) -> Counts:
    return combine((1, a), (-1, b))


def image_bytes(shape: Shape) -> str:
    """The size of the crops of an image in f32: the copy to the device with which each image begins."""
    return str(CROPS * 3 * shape.crop**2 * 4)


def after_uploads(trace: list[list[str]], shape: Shape) -> list[list[list[str]]]:
    """The lines from each upload of an image to the next, or to the end."""
    starts = [n for n, words in enumerate(trace) if words[:2] == ["HtoD", image_bytes(shape)]]
    return [trace[start:end] for start, end in zip(starts, [*starts[1:], len(trace)], strict=True)]


def end_of_image(lines: list[list[str]], shape: Shape) -> int:
    """Where the vision tower and the projector end: with the last product of the hidden size for all patches."""
    sizes = (shape.hidden, CROPS * shape.side**2)
    return 1 + max(n for n, words in enumerate(lines) if words[0] == "gemm" and (value(words, "m"), value(words, "n")) == sizes)


def last_step(trace: list[list[str]]) -> list[list[str]]:
    """The last decoded token: what follows a copy to the host up to the last one, and was called twice in that order."""
    ends = [n + 1 for n, words in enumerate(trace) if words[0] == "DtoH"]
    for copies in range(1, len(ends) // 2):
        first, middle, end = ends[-1 - 2 * copies], ends[-1 - copies], ends[-1]
        earlier, later = ([words[:2] for words in lines if words[0] in ("kernel", "gemm")]
                          for lines in (trace[first:middle], trace[middle:end]))
        if earlier == later and any(words[0] == "gemm" for words in trace[middle:end]):
            return trace[middle:end]
    raise SystemExit("the trace does not end with two equal steps of decoding")


class Emulation:
    """Runs the trainer on small models, and reads what it did."""

    def __init__(self, trainer: Path, work: Path) -> None:
        self.volumes = Volumes(work, trainer, len(os.sched_getaffinity(0)))
        self.work = work

    def _model(self, shape: Shape) -> str:
        shutil.rmtree(self.work / "models", ignore_errors=True)
        self.volumes.write_model("model", shape)
        return "model"

    def _traced(self, shape: Shape, what: str, call: Callable[[], object]) -> tuple[list[list[str]], int]:
        """The trace and the peak of what `call` runs."""
        started, files = time.monotonic(), {name: self.work / f"{name.lower()}" for name in ("GPU_TRACE", "GPU_PROFILE")}
        os.environ.update({name: str(file) for name, file in files.items()})
        call()
        if not files["GPU_TRACE"].exists():
            raise SystemExit("no GPU_TRACE was written; put an emulated driver that does so into the library path")
        for name in files:
            del os.environ[name]
        trace = [line.split() for line in files["GPU_TRACE"].read_text().splitlines() if line]
        peak = json.loads(files["GPU_PROFILE"].read_text())["memory"]["peak_bytes"]
        print(f"{what}, {shape}: {len(trace)} lines, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return trace, peak

    def generate(self, shape: Shape, rows: str, tokens: int) -> list[list[str]]:
        """The trace of so many rows, which begin together."""
        images, negatives = ROWS[rows]
        run = self.volumes.images_run(self._model(shape), images)
        recipe = generation(negatives, tokens)
        return self._traced(shape, f"{rows} rows", lambda: run.generate(recipe, "--responses-at-once", rows))[0]

    def prefill(self, shape: Shape) -> Counts:
        """One image with the first token of two responses."""
        return count(after_uploads(self.generate(shape, "2", 1), shape)[-1])

    def decode(self, shape: Shape, rows: str) -> Counts:
        """One more token of each row."""
        return count(last_step(self.generate(shape, rows, DECODED)))

    def train(self, shape: Shape, pairs: int) -> tuple[list[tuple[Counts, Counts]], int]:
        """Each pair of a single step, its image and the rest apart, and the peak. The optimizer is counted with the last pair."""
        run = self.volumes.pairs_run(self._model(shape), pairs)
        command = run.train_command(training(pairs), "--activation-checkpointing", "every-layer")
        trace, peak = self._traced(shape, f"{pairs} pairs", lambda: run_until_step(command, run.output))
        adapter = {str(4 * RANK * width) for widths in shape.projections().values() for width in widths}
        counted = []
        for lines in after_uploads(trace, shape)[:pairs]:
            # The adapter is saved after the step.
            saved = [n for n, words in enumerate(lines) if words[0] == "DtoH" and words[1] in adapter]
            begin, end = end_of_image(lines, shape), saved[0] if saved else len(lines)
            counted.append((count(lines[:begin]), count(lines[begin:end])))
        return counted, peak


def run_until_step(command: list[object], output: Path) -> None:
    """Runs a training and interrupts it after its first step, because it would verify its adapter for as long again."""
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        if any(file.stat().st_size for file in output.rglob("metrics.jsonl")):
            child.terminate()
            break
        time.sleep(0.05)
    if child.wait() not in (0, 75):
        raise SystemExit(f"{' '.join(map(str, command))}\nexit code {child.returncode}")


def two_layers(shape: Shape) -> Shape:
    return replace(shape, layers=2)


def split(whole: Counts, layer: Counts) -> tuple[Counts, Counts]:
    """The layer and the rest. Masks are copied to the device once a pass, so no layer has these bytes."""
    of_pass = {"HtoD": [0.0, layer["HtoD"][1], 0.0]}
    layer = minus(layer, of_pass)
    return layer, minus(whole, layer)


def vision(emulation: Emulation) -> dict[str, Counts]:
    """The vision tower of an image: one layer of it, and the rest."""
    small, one, two = (emulation.prefill(shape) for shape in [
        SMALL, replace(SMALL, **WIDE_TOWER), replace(SMALL, **WIDE_TOWER, vision_layers=3),
    ])
    layer = minus(two, one)
    return {"vision_layer": layer, "vision": combine((1, one), (-1, small), (-1, layer))}


def prefill(emulation: Emulation) -> dict[str, Counts]:
    """An image, and the first token of two responses."""
    one, two = emulation.prefill(SMALL), emulation.prefill(two_layers(SMALL))
    head = minus(emulation.prefill(replace(SHORT, **FULL_VOCABULARY)), emulation.prefill(SHORT))
    layer, rest = split(one, minus(two, one))
    return {"layer": layer, "rest": combine((1, rest), (1, head))}


def train(emulation: Emulation) -> dict[str, object]:
    """A pair, and a step's optimizer. Only a single layer is emulated with all tokens, which takes the longest of all runs."""
    ((_, one), (_, with_step)), peak = emulation.train(SHORT, 2)
    ((_, two), (_, with_step_of_two)), peak_of_two = emulation.train(two_layers(SHORT), 2)
    ((_, full),), _ = emulation.train(replace(SHORT, **FULL_VOCABULARY), 1)
    ((image, long),), peak_of_long = emulation.train(SMALL, 1)
    step_of_one, step_of_two = minus(with_step, one), minus(with_step_of_two, two)
    step_layer = minus(step_of_two, step_of_one)
    pair, short_rest = minus(long, step_of_one), combine((2, one), (-1, two))
    layer, rest = split(pair, minus(pair, short_rest))
    head = minus(full, with_step)
    # A layer's weights, and its input.
    peak_of_layer = peak_of_two - peak + 2 * SMALL.hidden * (SMALL.image_tokens - SHORT.image_tokens)
    return {"layer": layer, "rest": combine((1, rest), (1, image), (1, head)),
            "step_layer": step_layer, "step": minus(step_of_one, step_layer),
            "peak_bytes": {"layer": peak_of_layer, "rest": peak_of_long - peak_of_layer - outside_layers(SMALL)}}


def decode(emulation: Emulation) -> dict[str, dict]:
    """A token of 1, 16 and 64 rows: a layer at SHORT's tokens, the same of one more token of each image, and the rest."""
    counted = {}
    of_token, rests = {}, {}
    for rows in ROWS:
        one, two = (emulation.decode(shape, rows) for shape in [SHORT, two_layers(SHORT)])
        layer = minus(two, one)
        if rows in ("1", "2"):
            longer = minus(*(emulation.decode(shape, rows) for shape in [two_layers(LONGER), LONGER]))
            of_token[rows] = combine((1 / (LONGER.image_tokens - SHORT.image_tokens), minus(longer, layer)))
        if rows in ("1", "16"):
            full = emulation.decode(replace(SHORT, **FULL_VOCABULARY), rows)
            rests[rows] = minus(full, layer)
        counted[rows] = {"layer": layer}
    # The first tokens of 64 responses would take too long with the whole vocabulary: rows add the same each.
    rests["64"] = combine((64 / 15 - 1 / 15, rests["16"]), (-48 / 15, rests["1"]))
    del counted["2"]
    for rows, parts in counted.items():
        images = ROWS[rows][0]
        parts["token"] = combine((images, of_token["1" if rows == "1" else "2"]))
        parts["rest"] = rests[rows]
    return counted


def written(value: object, indent: int = 1) -> str:
    """JSON with five digits, and a line for each kind of call."""
    if isinstance(value, dict):
        lines = [f"{' ' * indent}{json.dumps(key)}: {written(inner, indent + 1)}" for key, inner in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * (indent - 1) + "}"
    if isinstance(value, list):
        return json.dumps([float(f"{number:.5g}") for number in value])
    return json.dumps(value)


def main() -> None:
    """Counts what --only names, and leaves the rest of the file as it is."""
    parts = {"vision": vision, "prefill": prefill, "train": train, "decode": decode}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", type=Path, required=True, help="the trainer with CUDA")
    parser.add_argument("--only", default=",".join(parts), help=f"some of {','.join(parts)}")
    options = parser.parse_args()
    counted = json.loads(COUNTED.read_text()) if COUNTED.exists() else {}
    work = Path(tempfile.mkdtemp(prefix="stic-profile-"))
    try:
        emulation = Emulation(options.trainer.resolve(), work)
        for name in options.only.split(","):
            counted[name] = parts[name](emulation)
            version = subprocess.run([options.trainer, "--version"], capture_output=True, text=True, check=True)
            counted["trainer"] = version.stdout.strip()
            counted["short_image_tokens"] = SHORT.image_tokens
            COUNTED.write_text(written(counted) + "\n")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
