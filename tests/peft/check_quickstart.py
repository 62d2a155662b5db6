"""Compares an adapter of the quickstart, and its merged export, with transformers and PEFT.

    python tests/peft/check_quickstart.py --trainer $STIC_BIN/stic-trainer --model DIR --adapter DIR \
        --images DIR --questions FILE

The reference loads them as a user does: the base with transformers, the adapter with PEFT, the export from its folder alone,
all in float32. Its inputs are the pixel values and token ids that the trainer dumps, because another JPEG decoder changes
log-probabilities by more than the tolerance. For PNG files the processor's own values must be equal.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

sys.path.append(str(Path(__file__).parents[1] / "parity"))
from common import Checks, Scored, Trainer, log_probs, quiet, read_lines, worst

QUESTIONS, PNGS = 24, 6
CHANGED_MIN = 1e-2  # nats: far above rounding
SHARD_BYTES = 1_000_000
SENTENCES = [
    ("Describe the image.", "The image shows two shapes: a top left red circle and a bottom center blue square."),
    ("Please describe every shape and its place.", "There is nothing at all to be seen here, and that is a pity."),
    ("How many shapes are there? Name them.", "5: a green cross, a purple triangle, an orange square, and two more."),
    ("x", "Größe: 12,5 m², \"quoted\" (and more) …  two  spaces\nand a line"),
]


def make_rows(questions: list[dict], heldout: Path, images: Path) -> list[dict]:
    """Answers to questions about images of many sizes, sentences, and PNG copies. Copies the images to the folder `images`."""
    by_image = list({question["image"]: question for question in questions}.values())
    drawn = by_image[:: max(1, len(by_image) // QUESTIONS)][:QUESTIONS]
    rows = []
    for number, question in enumerate(drawn):
        asked = {"prompt": question["question"], "response": question["answer"]}
        rows.append({"id": f"answer-{number}", "image": question["image"]} | asked)
    for number, (prompt, response) in enumerate(SENTENCES):
        image = drawn[-1 - number]["image"]
        rows.append({"id": f"sentence-{number}", "image": image, "prompt": prompt, "response": response})
        rows.append({"id": f"text-{number}", "prompt": prompt, "response": response})
    for number, question in enumerate(drawn[:PNGS]):
        prompt, response = SENTENCES[number % len(SENTENCES)]
        image = f"{question['image']}.png"
        rows.append({"id": f"png-{number}", "image": image, "prompt": prompt, "response": response})
    for row in rows:
        if "image" in row:
            source, copy = heldout / row["image"].removesuffix(".png"), images / row["image"]
            copy.parent.mkdir(parents=True, exist_ok=True)
            if copy.suffix == ".png":
                Image.open(source).convert("RGB").save(copy)
            else:
                copy.write_bytes(source.read_bytes())
    return rows


def check_inputs(checks: Checks, rows: list[dict], images: Path, processor, scored: Scored) -> None:
    """The processor computes the same token ids for the same rows and, for PNG files, the same pixel values."""
    unlike_ids, unlike_pixels, pngs = [], [], 0
    for row in rows:
        shown = "image" in row
        asked = [{"type": "image"}] * shown + [{"type": "text", "text": row["prompt"]}]
        answered = [{"type": "text", "text": row["response"]}]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        image = Image.open(images / row["image"]).convert("RGB") if shown else None
        processed = processor(images=image, text=processor.apply_chat_template(turns), return_tensors="pt")
        fed = scored.fed[row["id"]]
        if not torch.equal(processed["input_ids"][0], torch.cat([fed["prompt_ids"], fed["response_ids"]])):
            unlike_ids.append(row["id"])
        if row.get("image", "").endswith(".png"):
            pngs += 1
            if not torch.equal(processed["pixel_values"][0], fed["pixel_values"]):
                unlike_pixels.append(row["id"])
    checks.that(not unlike_ids, f"token ids of {len(rows)} rows are the processor's", f"not of {unlike_ids}")
    checks.that(pngs > 0 and not unlike_pixels, f"pixel values of {pngs} PNG files are the processor's to the bit",
                f"not of {unlike_pixels}")


def load_policy(checks: Checks, base: torch.nn.Module, folder: Path) -> PeftModel:
    """Loads the adapter with PEFT, which only warns about names that match nothing."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        policy = PeftModel.from_pretrained(base, folder).eval()
    about_keys = [str(warning.message) for warning in warned if "key" in str(warning.message)]
    checks.that(not about_keys, "PEFT loads the adapter without a warning", "; ".join(about_keys))
    again = policy.load_adapter(folder, "again")
    checks.that(not again.missing_keys and not again.unexpected_keys, "no key is missing or unexpected",
                f"missing {again.missing_keys[:3]}, unexpected {again.unexpected_keys[:3]}")
    policy.delete_adapter("again")
    stored = load_file(folder / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(policy, save_embedding_layers=False)  # or it would ask the hub
    same = stored.keys() == loaded.keys() and all(torch.equal(stored[name], loaded[name]) for name in stored)
    checks.that(same and len(stored) > 0, f"all {len(stored)} tensors of the adapter are in the model",
                f"PEFT holds {len(loaded)}, unlike by name {sorted(stored.keys() ^ loaded.keys())[:3]}")
    zero = [name for name, tensor in stored.items() if not tensor.any()]
    checks.that(not zero, "every tensor was trained", f"all zero: {zero[:3]}")
    return policy


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def check_export(checks: Checks, trainer: Trainer, model: Path, adapter: Path, scratch: Path, scored: Scored) -> Path:
    """Checks the merged export, as one file and in shards; returns the folder of the former."""
    whole, sharded = scratch / "merged", scratch / "sharded"
    trainer.run("export", "merged", "--model", model, "--adapter", adapter, "--output", whole)
    trainer.run("export", "merged", "--model", model, "--adapter", adapter, "--output", sharded,
                "--max-shard-bytes", SHARD_BYTES)
    files = sorted(sharded.glob("model-*.safetensors"))
    checks.that(len(files) > 1 and (sharded / "model.safetensors.index.json").is_file(),
                f"--max-shard-bytes writes {len(files)} shards and an index")
    # Files have a header on top, and a tensor larger than the limit has a file to itself.
    spilled = [file.name for file in files if file.stat().st_size > SHARD_BYTES + 65536 and len(load_file(file)) > 1]
    checks.that(not spilled, "no shard is larger than the limit", f"larger: {spilled}")
    merged, in_shards = load(whole), load(sharded)
    pairs = zip(merged.state_dict().items(), in_shards.state_dict().items(), strict=True)
    checks.that(all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs), "the shards contain the same weights")
    expected = {row: log_probs(merged, fed) for row, fed in scored.fed.items()}
    checks.close(scored.difference(expected, "adapter"), "the merged export in transformers against the adapter")
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", type=Path, required=True, help="the stic-trainer binary")
    parser.add_argument("--model", type=Path, required=True, help="the base model's folder")
    parser.add_argument("--adapter", type=Path, required=True, help="the adapter's folder")
    parser.add_argument("--images", type=Path, required=True, help="the folder of the questions' images")
    parser.add_argument("--questions", type=Path, required=True, help="JSONL: image, question, answer")
    arguments = parser.parse_args()
    quiet()
    checks, trainer = Checks(), Trainer(arguments.trainer)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        rows = make_rows(read_lines(arguments.questions), arguments.images, scratch / "images")
        scored = trainer.score(arguments.model, rows, scratch / "images", "--adapter", arguments.adapter)
        sizes = {tuple(fed["image_sizes"][0].tolist()) for fed in scored.fed.values() if "image_sizes" in fed}
        about = f"{len(rows)} rows, {len(sizes)} sizes of images, {scored.tokens()} tokens"

        base = load(arguments.model)
        expected = {row: log_probs(base, fed) for row, fed in scored.fed.items()}
        checks.close(scored.difference(expected, "base"), f"the base in transformers ({about})")
        policy = load_policy(checks, base, arguments.adapter)
        adapted = {row: log_probs(policy, fed) for row, fed in scored.fed.items()}
        checks.close(scored.difference(adapted, "adapter"), f"the adapter in PEFT ({about})")
        changed = worst((adapted[row], expected[row]) for row in adapted)
        checks.that(changed >= CHANGED_MIN, f"the adapter changes log-probabilities, by up to {changed:.2g} nats",
                    f"at least {CHANGED_MIN} was expected")

        whole = check_export(checks, trainer, arguments.model, arguments.adapter, scratch, scored)
        check_inputs(checks, rows, scratch / "images", AutoProcessor.from_pretrained(whole), scored)
    checks.finish()


if __name__ == "__main__":
    main()
