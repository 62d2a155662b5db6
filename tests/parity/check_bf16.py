"""Compares `stic-trainer score --precision bf16` with transformers and PEFT in bf16.

    python tests/parity/check_bf16.py --trainer $STIC_BIN/stic-trainer --toy MODEL --images DIR --questions FILE

How far two computations in bf16 may be apart does not follow from the precision alone: a difference of one rounding changes
the roundings after it. So the measure is transformers itself, whose attentions eager and sdpa differ in the roundings of
attention and share all others. A distance is the root mean square over the log-probabilities of response tokens, with and
without an adapter. Averaged over the models:

1. transformers with the trainer's roundings (`bf16_references.py`) is at most 0.4 times as far from the trainer as eager is
   from sdpa. It is 0.24, which comes from the order of sums. With transformers' rounding in place of the trainer's at any one
   point, the logits excepted, it is 0.52 to 1.13.
2. The trainer is not farther from f32 than transformers in bf16 is.
3. The trainer is not farther from transformers in bf16 than computations with independent errors are.

Of one model, the first is at most 1. `parity.rs` does the same for gradients.
"""

import argparse
import math
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from bf16_references import references
from common import LANGUAGE_MODEL, Checks, Trainer, log_probs, quiet, read_lines
from make_fixtures import BOS, FIXTURES, IMAGE, PAD, VARIANTS, VOCABULARY, Spec, build, draw_image

ROWS, RESPONSE_TOKENS, TOY_IMAGES = 12, 24, 24
SENTENCE = "The image shows two shapes: a top left red circle and a bottom center blue square."
DEEP = Spec("deep", seed=18, hidden=128, intermediate=256, layers=8, heads=8, kv_heads=4, head_dim=16, prompt=20,
            text={"initializer_range": 0.08})
SAME_ROUNDINGS, SAME_ROUNDINGS_OF_ONE = 0.4, 1
PAIRS = [("eager", "sdpa"), ("ours", "eager"), ("ours", "sdpa"), ("ours", "same"), ("ours", "f32"), ("eager", "f32"),
         ("sdpa", "f32")]


def make_model(spec: Spec, folder: Path) -> None:
    """A random model in bf16, with weights of norms other than 1 and biases other than 0."""
    torch.manual_seed(spec.seed)
    cls, config = build(spec)
    model = cls(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn_like(parameter))
    model.to(torch.bfloat16).save_pretrained(folder)
    side = spec.image_size
    sizes = dict(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    if spec.kind == "next":
        LlavaNextImageProcessorPil(image_grid_pinpoints=spec.pinpoints, **sizes).save_pretrained(folder)
    else:
        CLIPImageProcessorPil(**sizes).save_pretrained(folder)


def make_rows(spec: Spec, model: torch.nn.Module, images: Path) -> list[dict]:
    """Random pixels, prompts and responses."""
    generator = torch.Generator().manual_seed(spec.seed + 1)
    images.mkdir()
    rows = []
    for number in range(ROWS):
        image = draw_image(spec, generator)
        with torch.inference_mode():
            places = sum(len(features) for features in model.get_image_features(**image).pooler_output)
        if spec.kind == "next":
            image["pixel_values"] = image["pixel_values"][0]
        save_file(image, images / f"{number}.safetensors")
        text, response = (torch.randint(PAD + 1, VOCABULARY, (count,), generator=generator).tolist()
                          for count in (spec.prompt, RESPONSE_TOKENS))
        rows.append({"id": f"row-{number}", "pixels": f"{number}.safetensors",
                     "prompt_ids": [BOS, *[IMAGE] * places, *text], "response_ids": response})
    return rows


def toy_rows(questions: Path) -> list[dict]:
    """Answers, which are short, and sentences."""
    drawn = list({question["image"]: question for question in read_lines(questions)}.values())[:TOY_IMAGES]
    rows = []
    for number, question in enumerate(drawn):
        image = {"image": question["image"]}
        rows.append({"id": f"answer-{number}", "prompt": question["question"], "response": question["answer"]} | image)
        rows.append({"id": f"sentence-{number}", "prompt": "Describe the image.", "response": SENTENCE} | image)
    return rows


def make_adapter(base: torch.nn.Module, folder: Path) -> None:
    torch.manual_seed(7)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=LANGUAGE_MODEL, task_type="CAUSAL_LM")
    policy = get_peft_model(base, lora)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    policy.save_pretrained(folder, save_embedding_layers=False)
    policy.unload()


class Distances:
    """Between the trainer ("ours") and the references, in nats."""

    def __init__(self, trainer: Trainer, folder: Path, models: dict, rows: list[dict], images: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            adapter = Path(name)
            make_adapter(models["f32"], adapter)
            scored = trainer.score(folder, rows, images, "--adapter", adapter, "--precision", "bf16")
            adapted = {name: PeftModel.from_pretrained(model, adapter).eval() for name, model in models.items()}
        self.values = {"ours": torch.cat([scored.log_probs[row, policy]
                                          for policy in ("adapter", "base") for row in scored.fed])}
        for name, policy in adapted.items():
            assert all(p.dtype == torch.float32 for key, p in policy.named_parameters() if "lora_" in key)
            values = [log_probs(policy, fed) for fed in scored.fed.values()]
            with policy.disable_adapter():
                values += [log_probs(policy, fed) for fed in scored.fed.values()]
            self.values[name] = torch.cat(values)

    def rms(self, one: str, other: str) -> float:
        return (self.values[one].double() - self.values[other].double()).square().mean().sqrt().item()

    def largest(self, one: str, other: str) -> float:
        return (self.values[one] - self.values[other]).abs().max().item()

    def to_both(self, one: str) -> float:
        """To eager and sdpa, as root mean square."""
        return math.hypot(self.rms(one, "eager"), self.rms(one, "sdpa")) / math.sqrt(2)

    def same_roundings(self) -> float:
        return self.rms("ours", "same") / self.rms("eager", "sdpa")

    def error(self) -> float:
        return self.rms("ours", "f32") / self.to_both("f32")

    def independence(self) -> float:
        return self.to_both("ours") / math.hypot(self.rms("ours", "f32"), self.to_both("f32"))

    def attentions(self) -> float:
        return self.to_both("ours") / self.rms("eager", "sdpa")

    def line(self) -> str:
        return "".join(f"{f'{self.rms(*pair):.4f} {self.largest(*pair):.2f}':>13}" for pair in PAIRS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", type=Path, required=True, help="the stic-trainer binary")
    parser.add_argument("--toy", type=Path, required=True, help="the folder of the quickstart's model")
    parser.add_argument("--images", type=Path, required=True, help="the folder of the questions' images")
    parser.add_argument("--questions", type=Path, required=True, help="JSONL: image, question, answer")
    arguments = parser.parse_args()
    quiet()
    checks, trainer = Checks(), Trainer(arguments.trainer)
    measured: dict[str, Distances] = {}
    print(f"{'rms and maximum':17}" + "".join(f"{f'{one}-{other}':>13}" for one, other in PAIRS))
    with tempfile.TemporaryDirectory() as scratch:
        for spec in [*FIXTURES, *VARIANTS, DEEP]:
            folder, images = Path(scratch) / spec.name, Path(scratch) / f"{spec.name}-images"
            make_model(spec, folder)
            models = references(folder)
            measured[spec.name] = Distances(trainer, folder, models, make_rows(spec, models["f32"], images), images)
            print(f"{spec.name:17}{measured[spec.name].line()}", flush=True)
        models = references(arguments.toy)
        toy = Distances(trainer, arguments.toy, models, toy_rows(arguments.questions), arguments.images)
        measured["toy"] = toy
        print(f"{'toy':17}{toy.line()}")

    def mean(ratio) -> float:
        return sum(map(ratio, measured.values())) / len(measured)

    tokens = sum(len(distances.values["ours"]) for distances in measured.values())
    print(f"mean of {len(measured)} models, {tokens} log-probabilities:")
    same = mean(Distances.same_roundings)
    checks.that(same <= SAME_ROUNDINGS,
                f"transformers with the trainer's roundings: {same:.2f} of eager to sdpa, of at most {SAME_ROUNDINGS}")
    far = {name: round(distances.same_roundings(), 2) for name, distances in measured.items()
           if not distances.same_roundings() <= SAME_ROUNDINGS_OF_ONE}
    checks.that(not far, f"of no model more than {SAME_ROUNDINGS_OF_ONE}", str(far))
    error, independence = mean(Distances.error), mean(Distances.independence)
    checks.that(error <= 1, f"f32: {error:.2f} of transformers in bf16 to f32, of at most 1")
    checks.that(independence <= 1, f"transformers in bf16: {independence:.2f} of independent errors, of at most 1")
    print(f"       transformers in bf16: {mean(Distances.attentions):.2f} of eager to sdpa")
    checks.finish()


if __name__ == "__main__":
    main()
