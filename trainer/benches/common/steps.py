"""Our side: run configs, and the steps of `stic-trainer` as in a user's run."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from process import CompletedProcess, run
from prompts import CAPTION_PROMPTS, HALLUCINATION_PROMPTS, WELL_CURATED_PROMPT

# The log line of each step from which its time is measured. In `generate` and `train` the model is loaded by then.
BEGINS = {"prepare": "digesting the model", "generate": "loaded the model", "train": 'activity="training"'}


def at(volume: str, path: str = "") -> dict:
    """A path in a volume."""
    return {"volume": volume, "path": path}


def preference_recipe(source: str, negatives: str, tokens: int) -> dict:
    """Stage 1's data, with greedy responses, so that both sides write the same."""
    low_resolution = {"weight": 1, "corruption": {"lowResolution": {"shortSide": 20}}}
    return {
        "source": source, "negatives": negatives, "corruptedShare": 0.5 if negatives == "Both" else 0.0,
        "captionPrompts": CAPTION_PROMPTS, "wellCuratedPrompt": WELL_CURATED_PROMPT,
        "hallucinationPrompts": HALLUCINATION_PROMPTS, "corruptions": [low_resolution], "chatTemplate": "Auto",
        "sampling": {"temperature": 0.0, "topP": 1.0, "topK": 0, "maxNewTokens": tokens},
    }


def train_recipe(method: str, batch: int, rate: float = 1e-5, lora: dict | None = None) -> dict:
    """Continues an adapter, or trains a new one, without warm-up, so that every step costs the same."""
    dpo = {
        "loss": "Sigmoid", "beta": 0.1, "labelSmoothing": 0.0, "chosenLogProbWeight": 1 / 1024,
        "rejectedTerm": "LogProb", "reference": "Base", "rejectedImageNoiseSteps": None,
    }
    return {
        "objective": {"dpo": dpo} if method == "dpo" else {"sft": {"infusion": None}}, "lora": lora,
        "optimizer": {"learningRate": rate, "schedule": "Constant", "warmupRatio": 0.0, "weightDecay": 0.0,
                      "maxGradientNorm": 1.0},
        "epochs": 1, "globalBatchSize": batch, "maxLength": None, "withImage": True, "chatTemplate": "Auto",
        "saveSteps": 10_000,
    }


@dataclass(frozen=True)
class Step:
    """A finished step."""

    result: dict
    process: CompletedProcess
    started: float  # seconds since the epoch: when the measurement starts

    def seconds(self, until: float | None = None) -> float:
        """From the start of the measurement to the end of the process, or to `until`."""
        return (until or self.process.ended) - self.started


@dataclass
class Run:
    """A run on the folder `volumes`, with its own output folder, so that it reuses nothing."""

    binary: Path
    volumes: Path
    name: str
    model: str  # a folder of the volume models
    threads: int
    precision: str = "F32"
    adapter: str | None = None  # a folder of the volume adapters
    images: str = ""  # a folder of the volume images
    time_left: Callable[[], float] = lambda: math.inf  # seconds after which a step is killed

    def __post_init__(self) -> None:
        self.output = self.volumes / "out" / self.name
        self.output.mkdir(parents=True)

    def prepare(self, source: dict, recipe: dict, train: dict) -> Step:
        """Checks and digests the inputs of the later steps."""
        model = {"location": at("models", self.model), "imageLayout": "Model"}
        adapter = self.adapter and {"location": at("adapters", self.adapter), "digest": None}
        step = self._step("prepare", {
            "model": model, "adapter": adapter, "source": source, "recipe": {"preferences": recipe}, "train": train,
            "precision": self.precision,
        })
        found = step.result["inputs"]
        items = step.result["artifacts"][0]
        self._common = {
            "model": model | {"digest": found["model"]},
            "items": {"location": items["location"], "digest": items["digest"]},
            "images": at("images", self.images), "precision": self.precision,
        }
        self._adapter = adapter and adapter | {"digest": found["adapter"]}
        return step

    def generate(self, recipe: dict, *options: str, shards: int = 1) -> Step:
        """Generates the pairs with the base model, or copies them from a file. Of several shards, only the first."""
        step = self._step("generate", {**self._common, "adapter": None, "recipe": recipe, "shards": shards}, *options)
        self._shards = step.result["shards"]
        return step

    def train(self, recipe: dict, *options: str) -> Step:
        """Trains the adapter on the pairs."""
        return self._step("train", self._train_task(recipe), *options)

    def pairs(self) -> list[dict]:
        """The rows that `generate` wrote."""
        shard = self.output / f".partial/{self.name}-0" / self._shards["folder"] / "shard-00000.jsonl"
        return sorted(_lines(shard), key=lambda row: row["id"])

    def metrics(self) -> tuple[list[dict], float]:
        """One row per training step, and when the last one was written, in seconds since the epoch."""
        (file,) = self.output.glob("adapter-*/metrics.jsonl")
        return _lines(file), file.stat().st_mtime

    def train_command(self, recipe: dict, *options: str) -> list[object]:
        """The command of `train`, for a caller that ends it early."""
        return self._command("train", self._train_task(recipe), *options)

    def _train_task(self, recipe: dict) -> dict:
        return {**self._common, "adapter": self._adapter, "recipe": recipe, "data": {"shards": self._shards}}

    def _command(self, name: str, task: dict, *options: str) -> list[object]:
        config = {
            "version": 1,
            "run": {"kind": "StageOneRun", "namespace": "bench", "name": "bench", "uid": self.name, "rerun": 0},
            "output": at("out", self.name), "seed": 0, "task": {name: task},
        }
        file = self.output / f"{name}.json"
        file.write_text(json.dumps(config))
        return [self.binary, "step", "--config", file, "--volumes", self.volumes, *options]

    def _step(self, name: str, task: dict, *options: str) -> Step:
        command = self._command(name, task, *options)
        started: list[float] = []

        def on_log(line: str) -> None:
            if BEGINS[name] in line:
                started.append(time.time())

        process = run(command, self.threads, on_log, self.time_left())
        if not started:
            raise SystemExit(f"{name} did not log {BEGINS[name]!r}, from which its time is measured")
        return Step(json.loads(process.output), process, started[0])


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]
