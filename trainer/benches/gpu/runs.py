"""Runs on a random model: the volumes that run configs refer to, and the recipes of generation and training."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "common"))
from steps import Run, at, preference_recipe, train_recipe

from prediction import RANK
from random_model import PROMPT, Shape, make_pairs, write_images, write_model

LORA = {"rank": RANK, "alpha": 256.0, "dropout": 0.0,
        "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
TEMPLATE = {"chatTemplate": "MistralInstruct"}
BOTH, ONE = "PromptsOnly", "None"  # two responses to each image, or one


def generation(negatives: str, tokens: int) -> dict:
    """Responses of exactly `tokens` tokens, all to the same prompt."""
    prompts = {"captionPrompts": [PROMPT], "wellCuratedPrompt": PROMPT, "hallucinationPrompts": [PROMPT]}
    return preference_recipe("Generate", negatives, tokens) | prompts | TEMPLATE


def training(batch: int) -> dict:
    """DPO of a new adapter in batches of `batch` pairs."""
    return train_recipe("dpo", batch, lora=LORA) | TEMPLATE


class Volumes:
    """A folder with models, images, pairs and the output of runs."""

    def __init__(self, folder: Path, trainer: Path, threads: int) -> None:
        self.folder, self.trainer, self.threads = folder, trainer, threads
        self.time_left: Callable[[], float] = lambda: math.inf
        self.runs = 0

    def write_model(self, name: str, shape: Shape) -> int:
        """Writes a model unless it is there, and returns the bytes of its weights."""
        folder = self.folder / "models" / name
        written = folder / "model.safetensors"
        return written.stat().st_size if folder.exists() else write_model(folder, shape)

    def images_run(self, model: str, count: int) -> Run:
        """A run on `count` images, prepared."""
        self._images(count)
        source = {"location": at("images", str(count)), "listFile": None, "limit": None, "onUnreadable": "Fail"}
        run = self._run(model, count)
        run.prepare({"images": source}, generation(BOTH, 1), training(1))
        return run

    def pairs_run(self, model: str, count: int) -> Run:
        """A run on `count` pairs, prepared and generated, which copies the pairs."""
        folder = self.folder / "pairs"
        folder.mkdir(exist_ok=True)
        pairs = make_pairs(self._images(count))
        (folder / f"{count}.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
        source = {"location": at("pairs"), "file": f"{count}.jsonl", "images": at("images", str(count)), "limit": None,
                  "onUnreadable": "Fail"}
        run = self._run(model, count)
        recipe = preference_recipe("File", BOTH, 1) | TEMPLATE
        run.prepare({"pairs": source}, recipe, training(1))
        run.generate(recipe)
        return run

    def _images(self, count: int) -> list[str]:
        folder = self.folder / "images" / str(count)
        if folder.exists():
            return sorted(file.name for file in folder.iterdir())
        return write_images(folder, count)

    def _run(self, model: str, images: int) -> Run:
        self.runs += 1
        return Run(self.trainer, self.folder, f"run-{self.runs}", model, self.threads, "Bf16", images=str(images),
                   time_left=lambda: self.time_left())
