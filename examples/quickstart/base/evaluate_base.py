"""Measures a checkpoint of the quickstart's base model on the held-out scenes, and checks the criteria for it.

The weights are read as saved (bfloat16) and run in float32 with greedy decoding. Exits with 1 if a criterion is missed.
"""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

import prompts
from generate_scenes import PHRASES, SEED, Random

PHRASE = re.compile(r"\b(" + "|".join(PHRASES) + r")\b")
LOW_RESOLUTION_SIDE = 20
NEW_TOKENS = 96


class Base:
    """The checkpoint and its processor; answers in batches."""

    def __init__(self, checkpoint: Path, batch: int) -> None:
        self.processor = LlavaNextProcessor.from_pretrained(checkpoint)
        self.model = LlavaNextForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.batch = batch

    def answer(self, images: list[Image.Image], texts: list[str]) -> list[str]:
        answers = []
        for start in range(0, len(texts), self.batch):
            stop = start + self.batch
            answers += self._answer(images[start:stop], texts[start:stop])
        return answers

    @torch.inference_mode()
    def _answer(self, images: list[Image.Image], texts: list[str]) -> list[str]:
        contents = [[{"type": "image"}, {"type": "text", "text": text}] for text in texts]
        messages = [[{"role": "user", "content": content}] for content in contents]
        rendered = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = self.processor(images=images, text=rendered, padding=True, return_tensors="pt")
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS)
        new = ids[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]


def f1(descriptions: list[str], scenes: list[dict]) -> float:
    """F1 over all scenes of the phrases in the description against those of the scene, with multiplicity."""
    correct = described = present = 0
    for description, scene in zip(descriptions, scenes, strict=True):
        found, expected = Counter(PHRASE.findall(description.lower())), Counter(scene["phrases"])
        correct += (found & expected).total()
        described += found.total()
        present += expected.total()
    return 2 * correct / (described + present)


def low_resolution(image: Image.Image) -> Image.Image:
    """STIC's corruption: the short side at 20 pixels, bilinear, not scaled back."""
    scale = LOW_RESOLUTION_SIDE / min(image.size)
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def measure(base: Base, heldout: Path) -> dict[str, float]:
    scenes, questions = read_lines(heldout / "scenes.jsonl"), read_lines(heldout / "questions.jsonl")
    by_name = {scene["image"]: Image.open(heldout / scene["image"]).convert("RGB") for scene in scenes}
    images = list(by_name.values())
    random = Random(f"{SEED}/evaluation")
    captions = [random.choice(prompts.CAPTION) for _ in scenes]
    inventions = [random.choice(prompts.HALLUCINATION) for _ in scenes]

    results, samples = {}, {}
    for name, shown, texts in (
        ("careful", images, [prompts.WELL_CURATED] * len(images)),
        ("caption", images, captions),
        ("hallucination", images, inventions),
        ("careful, low resolution", [low_resolution(image) for image in images], [prompts.WELL_CURATED] * len(images)),
        ("caption, low resolution", [low_resolution(image) for image in images], captions),
        ("describe-and-respond", images, [prompts.DESCRIBE_AND_RESPOND] * len(images)),
    ):
        descriptions = base.answer(shown, texts)
        samples[name] = descriptions[:2]
        results[f"F1 {name}"] = f1(descriptions, scenes)
    described = dict(zip(by_name, descriptions, strict=True))

    shown = [by_name[question["image"]] for question in questions]
    direct = [question["question"] for question in questions]
    infused = [prompts.infuse(described[question["image"]], question["question"]) for question in questions]
    for name, texts in (("direct", direct), ("describe-and-respond", infused)):
        answers = base.answer(shown, texts)
        samples[f"questions {name}"] = list(zip(direct, answers))[:6]
        right = [answer.lower() == question["answer"] for answer, question in zip(answers, questions, strict=True)]
        results[f"questions {name}"] = sum(right) / len(right)
        if name == "direct":
            print_kinds(questions, right)
    print(json.dumps(samples, indent=1))
    return results


def print_kinds(questions: list[dict], right: list[bool]) -> None:
    """Accuracy by the first two words of the question."""
    kinds: dict[str, list[bool]] = {}
    for question, hit in zip(questions, right, strict=True):
        kinds.setdefault(" ".join(question["question"].split()[:2]), []).append(hit)
    for kind, hits in sorted(kinds.items()):
        print(f"  {kind:<12} {sum(hits) / len(hits):.3f} of {len(hits)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("heldout", type=Path, help="the quickstart's volumes/heldout")
    parser.add_argument("--batch", type=int, default=42)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    results = measure(Base(arguments.checkpoint, arguments.batch), arguments.heldout)
    for name, value in results.items():
        print(f"{name:<36} {value:.3f}")
    criteria = {
        "F1 of careful descriptions is at least 0.85": results["F1 careful"] >= 0.85,
        "F1 of captions is at least 0.15 lower": results["F1 caption"] <= results["F1 careful"] - 0.15,
        "F1 of hallucinations is at least 0.15 lower": results["F1 hallucination"] <= results["F1 careful"] - 0.15,
        "0.6 to 0.85 of the questions are right": 0.6 <= results["questions direct"] <= 0.85,
    }
    for criterion, met in criteria.items():
        print(f"{'met' if met else 'MISSED'}: {criterion}")
    sys.exit(0 if all(criteria.values()) else 1)


if __name__ == "__main__":
    main()
