"""The trainer on a GPU with a random LLaVA-1.6-Mistral-7B: measured, predicted, and the floor.

    python trainer/benches/gpu/bench.py --trainer target/cuda/stic-trainer [--json FILE] [--write-docs]
    python trainer/benches/gpu/bench.py --predict [--write-docs]      needs no GPU: only what is predicted, and the floor

Takes at most eight minutes on an H200 (--budget-seconds), builds nothing, and needs Python's standard library alone. Exits with 1
if a measure failed. docs/benchmarks/trainer-gpu.md says what is measured.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from prediction import (
    BATCH,
    Predictions,
    calls,
    decode_floor,
    layer_parameters,
    load_floor,
    outside_layers,
    pair_floor,
    pair_tokens,
    peak_floor,
    prefill_floor,
    seconds,
)
from random_model import TINY, Shape
from runs import BOTH, ONE, Volumes, generation, training

sys.path.append(str(Path(__file__).parents[1] / "common"))
import report
from process import TimeLimitError
from steps import Run, Step

PAGE = Path(__file__).parents[3] / "docs/benchmarks/trainer-gpu.md"
POLICIES = {"every-layer": "every layer checkpointed", "auto": "as much kept as fits"}
@dataclass
class Row:
    """A line of the table. Times are in seconds, memory in GB."""

    measure: str
    floor: float
    predicted: float | None
    measured: float | None = None
    problem: str = ""  # why there is no figure


# Rows that are decoded together: how many images, and how many tokens in all.
DECODED = {1: (1, 257), 16: (8, 129), 64: (32, 65)}


@dataclass(frozen=True)
class Plan:
    """The model and how much is measured on it."""

    shape: Shape
    whole: bool = True  # whether the widths are those of the 7B, for which there are counts
    batch: int = BATCH  # pairs of a step, of which there are two: the first warms up
    images: int = 32
    prefilled: int = 8
    decoded: dict[int, tuple[int, int]] = field(default_factory=lambda: DECODED)

    @classmethod
    def choose(cls, layers: int, quick: bool) -> "Plan":
        if not quick:
            return cls(Shape(layers=layers))
        decoded = {1: (1, 9), 4: (2, 8), 8: (4, 7)}
        return cls(replace(TINY, layers=layers), whole=False, batch=2, images=4, prefilled=2, decoded=decoded)


def rows_of(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def table(plan: Plan) -> dict[str, Row]:
    """The rows without what is measured, by a name of each."""
    shape = plan.shape
    prediction = Predictions.load(shape) if plan.whole else None
    weights = outside_layers(shape) + 2 * layer_parameters(shape) * shape.layers
    rows = {"load": Row("loading the weights, s", load_floor(weights), None)}
    for policy, what in POLICIES.items():
        again = policy == "every-layer"
        counted = prediction if again else None
        rows[policy] = Row(f"training, {what}: s a pair", sum(pair_floor(shape, again).values()),
                           counted and seconds(counted.pair()))
        rows[f"{policy} peak"] = Row(f"training, {what}: peak memory, GB", peak_floor(shape, 0 if again else shape.layers) / 1e9,
                                     counted and counted.peak_bytes() / 1e9)
    rows["prefill"] = Row("prefill of an image and two prompts, s", prefill_floor(shape),
                          prediction and seconds(prediction.prefill()))
    for count, (images, tokens) in plan.decoded.items():
        rows[f"decode {count}"] = Row(f"decoding {rows_of(count)}, tokens a second",
                                      count / decode_floor(shape, count, images, tokens),
                                      prediction and count / seconds(prediction.decode(count, tokens)))
    return rows


@dataclass
class Bench:
    """The measures, each with a share of the time that is left."""

    plan: Plan
    volumes: Volumes
    ends: float  # by time.monotonic(): when the time is over
    rows: dict[str, Row]
    one_image: float = 0.0  # seconds of prefilling one image and of all that does not depend on the number of images
    failed: bool = False
    limit: float = field(default=math.inf)

    def run(self) -> None:
        """Everything, the most important first."""
        self._attempt(["every-layer", "every-layer peak"], 0.4, lambda: self._train("every-layer"))
        self._attempt(["load", "prefill"], 0.5, self._prefill)
        for count in sorted(self.plan.decoded, reverse=True):
            prefill = self.rows["prefill"].measured
            if prefill is None:
                self.rows[f"decode {count}"].problem = "needs that of prefill"
            else:
                self._attempt([f"decode {count}"], 0.5, partial(self._decode, count, prefill))
        self._attempt(["auto", "auto peak"], 1.0, lambda: self._train("auto"))

    def _attempt(self, names: list[str], share: float, measure: Callable[[], None]) -> None:
        """Measures within a share of the time that is left. What fails or takes too long does not end the others."""
        started = time.monotonic()
        self.limit = started + share * (self.ends - started)
        problem = ""
        try:
            measure()
        except TimeLimitError:
            problem = "out of time"
        except SystemExit as failure:
            problem, self.failed = "failed", True
            log(str(failure))
        for name in names:
            self.rows[name].problem = problem
            log(f"{self.rows[name].measure}: {problem or figure(self.rows[name].measured)}")
        log(f"took {time.monotonic() - started:.0f} s; {self.ends - time.monotonic():.0f} s are left")

    def time_left(self) -> float:
        return self.limit - time.monotonic()

    @cached_property
    def pairs(self) -> Run:
        """The run of all trainings."""
        return self.volumes.pairs_run("model", 2 * self.plan.batch)

    @cached_property
    def images(self) -> Run:
        """The run of all generations."""
        return self.volumes.images_run("model", self.plan.images)

    def _train(self, policy: str) -> None:
        """Seconds of a pair, from the steps after the first, and the peak of the process."""
        # An adapter does not depend on the policy: the next training would find it, or continue it, and do nothing.
        for adapter in list(self.pairs.output.rglob("adapter-*")):
            shutil.rmtree(adapter, ignore_errors=True)
        step = self.pairs.train(training(self.plan.batch), "--activation-checkpointing", policy)
        speeds = [row["tokens/s"] for row in self.pairs.metrics()[0][1:]]
        self.rows[policy].measured = pair_tokens(self.plan.shape) / statistics.median(speeds)
        self.rows[f"{policy} peak"].measured = step.process.peak_gpu_bytes / 1e9 or None

    def _prefill(self) -> None:
        """Seconds of each further image, so that nothing is counted that happens once; and of loading, in a second process."""
        self._generate(1, ONE, 1, 1)  # the driver compiles kernels
        one, several = self._generate(1, BOTH, 1, 2), self._generate(self.plan.prefilled, BOTH, 1, 2)
        self.one_image = one.seconds()
        self.rows["load"].measured = one.started - one.process.started
        self.rows["prefill"].measured = (several.seconds() - one.seconds()) / (self.plan.prefilled - 1)

    def _decode(self, count: int, prefill: float) -> None:
        """Tokens a second, without the time until each row has its first."""
        images, tokens = self.plan.decoded[count]
        took = self._generate(images, ONE if count == 1 else BOTH, tokens, count).seconds()
        took -= self.one_image + (images - 1) * prefill
        # Tokens of a tiny model can take less than prefill varies.
        self.rows[f"decode {count}"].measured = count * (tokens - 1) / took if took > 0 else None

    def _generate(self, images: int, negatives: str, tokens: int, rows: int) -> Step:
        # Otherwise the responses of an earlier measure with the same recipe would be kept.
        shutil.rmtree(self.images.output / ".partial", ignore_errors=True)
        # One shard of several has as many images as are wanted.
        shards = self.plan.images // images
        return self.images.generate(generation(negatives, tokens), "--responses-at-once", str(rows), shards=shards)


def figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def markdown(rows: dict[str, Row], facts: dict[str, str]) -> str:
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "| measure | measured | predicted | floor |", "|---|---|---|---|"]
    for row in rows.values():
        cells = [row.problem or figure(row.measured), figure(row.predicted), figure(row.floor)]
        lines.append(f"| {row.measure} | {' | '.join(cell or '–' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def counts(plan: Plan) -> str:
    """The table of what the predictions are made of, and that of the parts of a floor."""
    predictions = Predictions.load(plan.shape)
    columns = {"a pair": predictions.pair(), "prefill of an image": predictions.prefill()}
    columns |= {f"a token of {rows_of(count)}": predictions.decode(count, tokens) for count, (_, tokens) in plan.decoded.items()}
    counted = [calls(column) for column in columns.values()]
    lines = [f"| counted | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(figure(column[name]) for column in counted)} |" for name in counted[0]]
    lines += ["", "| the floor of a pair, every layer checkpointed | ms |", "|---|---|"]
    lines += [f"| {name} | {1000 * value:.1f} |" for name, value in pair_floor(plan.shape, True).items()]
    return "\n".join(lines) + "\n"


def log(line: str) -> None:
    """Prints to stderr, because stdout is for the table."""
    print(line, file=sys.stderr, flush=True)


def gpu() -> dict[str, str]:
    """The first GPU and its driver, as nvidia-smi names them."""
    if shutil.which("nvidia-smi") is None:
        return {"GPU": "unknown: there is no nvidia-smi"}
    query = ["nvidia-smi", "--id=0", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True).stdout.strip().split(", ")
    return dict(zip(["GPU", "driver", "memory of the GPU"], answer, strict=False))


def facts(trainer: Path, plan: Plan, took: float) -> dict[str, str]:
    version = subprocess.run([trainer, "--version"], capture_output=True, text=True, check=True)
    return gpu() | {
        "date": time.strftime("%Y-%m-%d"), "version": version.stdout.strip(), "processors": str(len(os.sched_getaffinity(0))),
        "workload": f"{'7B' if plan.whole else 'tiny'} widths, {plan.shape.layers} layers, bf16, LoRA of rank 128; pairs of "
        f"{pair_tokens(plan.shape):,} tokens in batches of {plan.batch}",
        "took": f"{took:.0f} s",
    }


def measure(options: argparse.Namespace, plan: Plan, rows: dict[str, Row]) -> tuple[dict[str, str], bool]:
    """Fills in what is measured. Returns the facts, and whether all measures succeeded."""
    started = time.monotonic()
    work = options.work or Path(tempfile.mkdtemp(prefix="stic-bench-"))
    folder = work / "bench"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Otherwise the driver would compile the kernels again for every process.
    os.environ["CUDA_CACHE_PATH"] = str(folder / "kernels")
    try:
        volumes = Volumes(folder, options.trainer.resolve(), len(os.sched_getaffinity(0)))
        bench = Bench(plan, volumes, started + options.budget_seconds, rows)
        volumes.time_left = bench.time_left
        size = volumes.write_model("model", plan.shape)
        log(f"wrote a model of {size / 1e9:.1f} GB in {time.monotonic() - started:.0f} s")
        bench.run()
    finally:
        shutil.rmtree(work if options.work is None else folder)
    return facts(options.trainer, plan, time.monotonic() - started), not bench.failed


def parse() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    built = os.environ.get("STIC_BIN")
    options.add_argument("--trainer", type=Path, default=built and Path(built, "stic-trainer"),
                         help="the trainer with CUDA; by default the one in the folder STIC_BIN, if that is set")
    options.add_argument("--work", type=Path, help="a folder with room for 25 GB; a temporary one by default")
    options.add_argument("--layers", type=int, default=32, help="of the language model")
    options.add_argument("--quick", action="store_true", help="a tiny model that only checks the benchmark itself")
    options.add_argument("--budget-seconds", type=float, default=465,
                         help="when it ends, whatever is left to measure; removing the model comes after")
    options.add_argument("--predict", action="store_true", help="measure nothing")
    options.add_argument("--json", type=Path, help="also write the figures to this file")
    options.add_argument("--write-docs", action="store_true", help=f"write the table into docs/benchmarks/{PAGE.name}")
    parsed = options.parse_args()
    if not parsed.predict and not (parsed.trainer and parsed.trainer.is_file()):
        options.error(f"--trainer {parsed.trainer}: no such file; run make trainer-cuda, or pass --predict to measure nothing")
    return parsed


def main() -> None:
    options = parse()
    plan = Plan.choose(options.layers, options.quick)
    rows = table(plan)
    known, succeeded = {"measured": "nothing; this is what is expected of an H200"}, True
    if not options.predict:
        known, succeeded = measure(options, plan, rows)
    text = markdown(rows, known) + (f"\n{counts(plan)}" if plan.whole else "")
    print(text)
    if options.json:
        content = {"facts": known, "rows": [asdict(row) for row in rows.values()]}
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    if options.write_docs:
        report.write_docs(PAGE, text)
        log(f"wrote {PAGE}")
    sys.exit(not succeeded)


if __name__ == "__main__":
    main()
