"""The measures. Both sides alternate, and each measurement is a process of its own."""

import json
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import process
import workload
from steps import Run, at, preference_recipe, train_recipe

RATE = 1e-5  # so small that both sides still agree after a step
AGREE = {"F32": 1e-4, "Bf16": 3e-2}  # relative, of loss and gradient norm
PEERS = {"dpo": "TRL DPOTrainer", "sft": "transformers Trainer with PEFT"}
TRAININGS = {"dpo": ("DPO, a pair", ">= 2", "<= 0.6"), "sft": ("SFT, an example", ">= 1", "")}


def fewer(ours: float, theirs: float) -> float:
    """The ratio if less is better."""
    return theirs / ours


def more(ours: float, theirs: float) -> float:
    """The ratio if more is better, and for memory."""
    return ours / theirs


@dataclass(frozen=True)
class Settings:
    """What is measured, and how much of it."""

    trainer: Path
    work: Path
    shape: str  # a key of workload.SHAPES
    device: str = "cpu"
    precision: str = "F32"
    threads: int = 2
    pairs: int = 8
    batch: int = 4
    images: int = 12
    responses_per_batch: int = 8  # responses of a padded batch
    tokens: int = 256
    decoded: int = 512
    repeats: int = 2


@dataclass(frozen=True)
class Side:
    """One measurement of one side."""

    seconds: float
    process: process.CompletedProcess


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    measure: str
    peer: str
    ours: float
    theirs: float
    ratio: float  # how many times faster ours is; for memory, how many times as much ours takes
    goal: str  # for the ratio; empty if there is none
    others_share: float  # the largest share of CPU time that other processes took during any of its runs
    stolen_share: tuple[float, float]  # and that the hypervisor gave to other machines: during ours, during theirs


class Bench:
    """The workload on disk, and the measures of both sides."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.volumes = settings.work / "volumes"
        self.runs = 0
        for folder in ["out", "images", "pairs"]:
            shutil.rmtree(self.volumes / folder, ignore_errors=True)
        model = self.volumes / "models" / settings.shape
        if not model.exists():
            shape = workload.SHAPES[settings.shape]
            workload.write_adapter(self.volumes / "adapters" / settings.shape, shape)
            workload.write_model(model, shape, settings.device)
        count = max(settings.pairs, settings.images)
        self.images = workload.write_images(self.volumes / "images", count)
        self.pairs = workload.make_pairs(self.images, workload.make_tokenizer())
        (self.volumes / "pairs").mkdir()

    # Training

    def training(self, method: str) -> list[Row]:
        """Seconds per pair or example, and peak memory, of DPO or SFT."""
        self._agree(method)
        settings = self.settings
        ours, theirs = self._alternate(
            lambda: self._our_training(method, settings.pairs, settings.batch)[0],
            lambda: self._their_training(method, settings.pairs, settings.batch)[0],
        )
        what, goal, memory_goal = TRAININGS[method]
        on_cpu = settings.device == "cpu"
        return [
            self._row(f"{what}, s", PEERS[method], goal, ours, theirs, lambda s: s.seconds / settings.pairs, fewer),
            self._row(f"{method.upper()} peak {'RSS' if on_cpu else 'GPU memory'}, MB", PEERS[method], memory_goal,
                      ours, theirs, lambda s: (s.process.peak_rss_bytes if on_cpu else s.process.peak_gpu_bytes) / 1e6,
                      more),
        ]

    def _agree(self, method: str) -> None:
        """Before any timing: both sides must compute the same loss and gradient norm for the same batch."""
        count = min(2, self.settings.pairs)
        ours = self._our_training(method, count, count)[1]
        theirs = self._their_training(method, count, count)[1]
        for name in ["loss", "grad_norm"]:
            a, b = ours[0][name], theirs[0][name]
            difference = abs(a - b) / abs(b)
            log(f"{method} {name}: {a:.7g} ours, {b:.7g} theirs, relative difference {difference:.1e}")
            if not difference <= AGREE[self.settings.precision]:
                raise SystemExit(f"{method}: the {name} of both sides differs, so they do not compute the same thing")

    def _our_training(self, method: str, count: int, batch: int) -> tuple[Side, list[dict]]:
        run = self._run(adapter=self.settings.shape)
        recipe, data = train_recipe(method, batch, RATE), preference_recipe("File", "PromptsOnly", 256)
        file = self._list(self.volumes / "pairs", f"{count}.jsonl", [json.dumps(pair) for pair in self.pairs[:count]])
        source = {"location": at("pairs"), "file": file, "images": at("images"), "limit": None}
        run.prepare({"pairs": source | {"onUnreadable": "Fail"}}, data, recipe)
        run.generate(data)
        step = run.train(recipe)
        log, until = run.metrics()
        return Side(step.seconds(until), step.process), log

    def _their_training(self, method: str, count: int, batch: int) -> tuple[Side, list[dict]]:
        pairs = [pair | {"image": str(self.volumes / "images" / pair["image"]), "tokens": workload.RESPONSE_TOKENS}
                 for pair in self.pairs[:count]]
        side, answer = self._their(method, pairs=pairs, batch=batch, rate=RATE)
        return side, answer["steps"]

    # Generation

    def generation(self, negatives: str) -> list[Row]:
        """Images described per minute, with a chosen and a rejected response each."""
        settings = self.settings
        rows = self._our_generation(negatives, min(2, settings.images), min(32, settings.tokens))[1]
        requests, expected = self._requests(rows)
        answer = self._their("generate", requests=requests, tokens=min(32, settings.tokens), responses_per_batch=1)[1]
        if answer["tokens"] != expected:
            raise SystemExit(f"{negatives}: the tokens of both sides differ: {expected}, {answer['tokens']}")
        log(f"{negatives}: {len(expected)} greedy responses are equal, token for token")

        latest = {}

        def ours() -> Side:
            side, latest["rows"] = self._our_generation(negatives, settings.images, settings.tokens)
            return side

        def theirs(responses_per_batch: int) -> Callable[[], Side]:
            def run() -> Side:
                requests, expected = self._requests(latest["rows"])
                side, answer = self._their("generate", requests=requests, tokens=settings.tokens, responses_per_batch=responses_per_batch)
                same = sum(a == b for a, b in zip(answer["tokens"], expected, strict=True))
                log(f"{negatives}, batches of {responses_per_batch}: {same} of {len(expected)} responses equal ours")
                return side

            return run

        measured, one, several = self._alternate(ours, theirs(1), theirs(settings.responses_per_batch))
        what = f"images described a minute, negatives {negatives}"
        return [
            self._row(what, peer, goal, measured, theirs, lambda s: 60 * settings.images / s.seconds, more)
            for peer, goal, theirs in [
                ("transformers, one call after another", ">= 6", one),
                (f"transformers, {settings.responses_per_batch} padded", ">= 1.5", several),
            ]
        ]

    def decode(self) -> list[Row]:
        """Tokens per second of one response, from the time that additional tokens take, so without the prompt."""
        settings = self.settings
        rows = self._our_generation("None", 1, 1)[1]
        requests = self._requests(rows)[0]

        def ours() -> Side:
            short, long = (self._our_generation("None", 1, tokens)[0] for tokens in [1, 1 + settings.decoded])
            return Side(long.seconds - short.seconds, long.process)

        def theirs() -> Side:
            return self._their("decode", requests=requests, tokens=settings.decoded, repeats=1)[0]

        return [self._row("decode tokens a second, batch 1", "transformers", ">= 1", *self._alternate(ours, theirs),
                          lambda s: settings.decoded / s.seconds, more)]

    def _our_generation(self, negatives: str, count: int, tokens: int) -> tuple[Side, list[dict]]:
        run = self._run()
        recipe = preference_recipe("Generate", negatives, tokens)
        file = self._list(self.volumes / "images", f"first-{count}.txt", self.images[:count])
        source = {"location": at("images"), "listFile": file, "limit": None, "onUnreadable": "Fail"}
        run.prepare({"images": source}, recipe, train_recipe("sft" if negatives == "None" else "dpo", 1))
        step = run.generate(recipe)
        return Side(step.seconds(), step.process), run.pairs()

    def _requests(self, rows: list[dict]) -> tuple[list[dict], list[list[int]]]:
        """The requests for the other side, and the tokens that ours answered."""
        requests, answered = [], []
        for row in rows:
            for response in filter(None, [row["chosen"], row["rejected"]]):
                done = response["corruption"]
                requests.append({
                    "image": str(self.volumes / "images" / row["image"]), "prompt": response["prompt"],
                    "resized": done and [done["width"], done["height"]],
                })
                answered.append(response["tokens"])
        return requests, answered

    # Both

    def _run(self, adapter: str | None = None) -> Run:
        self.runs += 1
        settings = self.settings
        return Run(settings.trainer, self.volumes, f"run-{self.runs}", settings.shape, settings.threads,
                   settings.precision, adapter)

    def _their(self, measure: str, **job: object) -> tuple[Side, dict]:
        settings = self.settings
        file = settings.work / "job.json"
        file.write_text(json.dumps({
            "measure": measure, "model": str(self.volumes / "models" / settings.shape), "device": settings.device,
            "adapter": str(self.volumes / "adapters" / settings.shape), "precision": settings.precision,
            "threads": settings.threads, "scratch": str(settings.work / "scratch"), **job,
        }))
        ended = process.run([sys.executable, Path(__file__).with_name("theirs.py"), file], settings.threads)
        answer = json.loads(ended.output)
        return Side(answer["seconds"], ended), answer

    def _list(self, folder: Path, name: str, lines: list[str]) -> str:
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
        return name

    def _alternate(self, *sides: Callable[[], Side]) -> list[list[Side]]:
        """Each side once, then each again, so that changes on the machine affect all of them."""
        rounds = [[side() for side in sides] for _ in range(self.settings.repeats)]
        return [list(of_side) for of_side in zip(*rounds, strict=True)]

    def _row(
        self, measure: str, peer: str, goal: str, ours: list[Side], theirs: list[Side],
        value: Callable[[Side], float], ratio: Callable[[float, float], float],
    ) -> Row:
        """A row with the medians."""
        a, b = (statistics.median(map(value, sides)) for sides in [ours, theirs])
        others = max(side.process.others_share for side in [*ours, *theirs])
        stolen = tuple(max(side.process.stolen_share for side in sides) for sides in [ours, theirs])
        row = Row(measure, peer, a, b, ratio(a, b), goal, others, stolen)
        log(json.dumps(asdict(row)))
        return row


def log(line: str) -> None:
    """Prints to stderr, because stdout is for the table."""
    print(line, file=sys.stderr, flush=True)
