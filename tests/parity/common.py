"""Shared by the checks against transformers."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

# A pattern, because a list of names would also match CLIP's q, k and v projections.
LANGUAGE_MODEL = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
LOG_PROBS = 1e-4  # nats a token, in float32


def quiet() -> None:
    """No progress bars, errors only in the log; one thread, which is fastest for models this small."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


class Checks:
    """Prints one line per check. All of them run; a failed one makes the script exit with 1."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.done = 0

    def that(self, holds: bool, what: str, otherwise: str = "") -> None:
        self.done += 1
        print(f"{'ok    ' if holds else 'FAILED'} {what}" + (f": {otherwise}" if otherwise and not holds else ""))
        if not holds:
            self.failed.append(what)

    def close(self, difference: float, what: str, limit: float = LOG_PROBS) -> None:
        # Not `<=` alone: a NaN must fail.
        self.that(difference <= limit, f"{what}: largest difference {difference:.1e} of {limit:.0e}")

    def finish(self) -> None:
        if self.failed:
            sys.exit(f"{len(self.failed)} of {self.done} checks failed, the first: {self.failed[0]}")
        print(f"all {self.done} checks passed")


@dataclass(frozen=True)
class Scored:
    """The output of `stic-trainer score` for some rows, and what it fed to the model."""

    log_probs: dict[tuple[str, str], torch.Tensor]  # by (row, policy)
    fed: dict[str, dict[str, torch.Tensor]]  # by row: prompt_ids, response_ids, pixel_values, image_sizes

    def tokens(self) -> int:
        return sum(len(fed["response_ids"]) for fed in self.fed.values())

    def difference(self, expected: dict[str, torch.Tensor], policy: str = "base") -> float:
        """The largest difference over all tokens of the expected rows."""
        return worst((self.log_probs[row, policy], values) for row, values in expected.items())


class Trainer:
    """The binary under test."""

    def __init__(self, binary: Path) -> None:
        if not binary.is_file():
            sys.exit(f"{binary}: no such file; run make build")
        self.binary = binary

    def run(self, *arguments: object, expect: int = 0) -> str:
        """Runs it and returns its stderr. Exits if the exit code is not the expected one."""
        command = [str(self.binary), *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode != expect:
            sys.exit(f"{' '.join(command)}\nexit code {ended.returncode}, expected {expect}\n{ended.stderr}")
        return ended.stderr

    def score(self, model: Path, rows: list[dict], images: Path, *options: object) -> Scored:
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder)
            write_lines(scratch / "rows.jsonl", rows)
            self.run("score", "--model", model, "--input", scratch / "rows.jsonl", "--images", images,
                     "--output", scratch / "scores.jsonl", "--dump-pixels", scratch / "fed", *options)
            fed = {row["id"]: load_file(scratch / "fed" / f"{row['id']}.safetensors") for row in rows}
            log_probs = {}
            for score in read_lines(scratch / "scores.jsonl"):
                assert score["tokens"] == fed[score["id"]]["response_ids"].tolist(), score["id"]
                log_probs[score["id"], score["policy"]] = torch.tensor(score["logprobs"])
        return Scored(log_probs, fed)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def worst(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The largest difference between pairs of tensors; infinite if shapes differ or there are no pairs."""
    found = [(a - b).abs().max().item() if a.shape == b.shape and a.numel() else float("inf") for a, b in pairs]
    return max(found, default=float("inf"))


@torch.inference_mode()
def log_probs(model: torch.nn.Module, fed: dict[str, torch.Tensor], image: int | None = None) -> torch.Tensor:
    """log p of each response token under a transformers model with the trainer's inputs.

    `image` is the trainer's id of the image token, if the model's differs.
    """
    config = model.config
    prompt = fed["prompt_ids"]
    if image is not None:
        prompt = torch.where(prompt == image, config.image_token_index, prompt)
    inputs = {"input_ids": torch.cat([prompt, fed["response_ids"]])[None]}
    if "pixel_values" in fed:
        if config.model_type == "llava_next":
            inputs |= {"pixel_values": fed["pixel_values"][None], "image_sizes": fed["image_sizes"]}
        else:
            inputs |= {"pixel_values": fed["pixel_values"]}
    logits = model(**inputs).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, fed["response_ids"][:, None])[:, 0]
