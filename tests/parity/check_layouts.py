"""Compares `stic-trainer score` with transformers on every layout of LLaVA checkpoints, configs, processors and adapters.

    python tests/parity/check_layouts.py --trainer $STIC_BIN/stic-trainer

One set of random weights per model is written in all layouts. The layout that transformers 5 saves is compared with
transformers. The others must equal it to the last bit, because results must not depend on the names of tensors.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

import layouts
from common import LANGUAGE_MODEL, Checks, Scored, Trainer, log_probs, quiet, read_lines, worst, write_lines
from tiny_models import BASE_VOCABULARY, KINDS, Kind, base_tokenizer, save_pictures

SIZES = [(150, 90), (56, 56), (47, 211), (140, 31), (99, 101), (33, 20)]  # width, height
QUESTIONS = ["What is it?", "Describe the image, please.", "Größe?\n1) A  2) B", "x"]
ANSWERS = ["A red bus.", "It is a cat that sits on a mat, in the sun: \"ünïcödé\".", "b", "1234567890\nno"]
ORIGINAL_IMAGE = 32000  # the original LLaVA's default, beyond its vocabulary
SPM = Path(__file__).parents[2] / "trainer/tests/data/sentencepiece-bpe/tokenizer.model"
DESCRIPTION_TOKENS, ANSWER_TOKENS = 4, 16
RANK, ALPHA = 4, 8


def make_rows(images: list[str]) -> list[dict]:
    rows = []
    for number, image in enumerate([*images, None, None]):
        row = {"id": f"row-{number}", "prompt": QUESTIONS[number % 4], "response": ANSWERS[(number + 1) % 4]}
        rows.append(row | ({"image": image} if image else {}))
    # As generated data is scored: ids that no text encodes to, and no EOS.
    ids = torch.randint(3, BASE_VOCABULARY, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    return [*rows, {"id": "row-ids", "image": images[0], "prompt": QUESTIONS[0], "response_ids": ids}]


def difference(a: Scored, b: Scored, image: int | None = None) -> str:
    """The first difference between two results, or "". `image` is the id of the image token in b if it differs from a's."""
    for row, fed in a.fed.items():
        other = dict(b.fed[row])
        if image is not None:
            other["prompt_ids"] = torch.where(other["prompt_ids"] == image, BASE_VOCABULARY, other["prompt_ids"])
        for name in fed.keys() | other.keys():
            if not (name in fed and name in other and torch.equal(fed[name], other[name])):
                return f"{name} of {row}"
    unlike = [key for key in a.log_probs if not torch.equal(a.log_probs[key], b.log_probs[key])]
    return f"log-probabilities of {unlike[0]}" if unlike or a.log_probs.keys() != b.log_probs.keys() else ""


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def lora_tensors(policy: PeftModel) -> dict[str, torch.Tensor]:
    # PEFT would ask the hub whether the embeddings were resized.
    return get_peft_model_state_dict(policy, save_embedding_layers=False)


class Model:
    """A tiny model as transformers saves it, and the checks against it."""

    def __init__(self, kind: Kind, checks: Checks, trainer: Trainer, scratch: Path) -> None:
        self.kind, self.checks, self.trainer = kind, checks, trainer
        self.scratch = scratch / kind.name
        self.saved = self.scratch / "saved"
        kind.make().save_pretrained(self.saved)
        kind.processor().save_pretrained(self.saved)
        self.config = layouts.read_json(self.saved / "config.json")
        self.reference = load(self.saved)
        self.images = self.scratch / "images"
        self.rows = make_rows(save_pictures(self.images, SIZES))
        self.scored = self.score(self.saved)
        self.scored_named = self.score(self.saved, "--chat-template", kind.named_template)

    def score(self, folder: Path, *options: object) -> Scored:
        return self.trainer.score(folder, self.rows, self.images, *options)

    def label(self, what: str) -> str:
        return f"{self.kind.name}: {what}"

    def close(
        self, scored: Scored, reference: torch.nn.Module, what: str, policy: str = "base", image: int | None = None
    ) -> None:
        expected = {row: log_probs(reference, fed, image) for row, fed in scored.fed.items()}
        self.checks.close(scored.difference(expected, policy), self.label(what))

    def equal(self, scored: Scored, what: str, expected: Scored | None = None, image: int | None = None) -> None:
        unlike = difference(expected or self.scored, scored, image)
        self.checks.that(not unlike, self.label(f"{what}: equal to the bit"), unlike)

    # --- against transformers ---------------------------------------------------------------------------------------

    def check_saved(self) -> None:
        """The model as transformers saves it, with its own processor and template, and with the original LLaVA's templates."""
        self.close(self.scored, self.reference, f"log-probabilities of {self.scored.tokens()} tokens")
        self.close(self.scored_named, self.reference, f"the same under {self.kind.named_template}")
        processor = AutoProcessor.from_pretrained(self.saved)
        unlike = []
        for row in self.rows:
            shown = [{"type": "image"}] if "image" in row else []
            user = {"role": "user", "content": [*shown, {"type": "text", "text": row["prompt"]}]}
            text = processor.apply_chat_template([user], add_generation_prompt=True)
            named = self.kind.wrap(("<image>\n" if shown else "") + row["prompt"])
            image = Image.open(self.images / row["image"]) if shown else None
            for scored, prompt in ((self.scored, text), (self.scored_named, named)):
                fed = scored.fed[row["id"]]
                processed = processor(images=image, text=prompt, return_tensors="pt")
                expected = {"prompt_ids": processed["input_ids"][0]}
                if shown:
                    expected["pixel_values"] = processed["pixel_values"][0] if self.kind.anyres else processed["pixel_values"]
                if "response" in row:
                    # A template that ends with a space leaves none to put before the answer.
                    space = "" if prompt.endswith(" ") else " "
                    whole = processor(images=image, text=f"{prompt}{space}{row['response']}</s>", return_tensors="pt")
                    expected["response_ids"] = whole["input_ids"][0, len(expected["prompt_ids"]) :]
                unlike += [(row["id"], name) for name, value in expected.items() if not torch.equal(value, fed[name])]
        self.checks.that(not unlike, self.label("token ids and pixel values are the processor's"), str(unlike))

    def greedy(self, folder: Path, *options: object) -> list[dict]:
        """The trainer's greedy answers."""
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            shown = [row for row in self.rows if "image" in row and "response" in row]
            (work / "heldout").mkdir()
            (work / "heldout/images").symlink_to(self.images)
            write_lines(work / "heldout/questions.jsonl", [
                {"id": row["id"], "image": f"images/{row['image']}", "question": row["prompt"], "answer": "?"} for row in shown])
            self.trainer.run("evaluate", "--model", folder, "--benchmark", f"Scenes={work / 'heldout'}", "--output",
                             work / "out", "--max-description-tokens", DESCRIPTION_TOKENS, *options)
            [answers] = (work / "out").glob("answers*.jsonl")  # the file's name contains a hash of the inputs
            return sorted(read_lines(answers), key=lambda row: row["id"])

    @torch.inference_mode()
    def check_greedy(self, answered: list[dict]) -> None:
        processor = AutoProcessor.from_pretrained(self.saved)
        prompts = {row["id"]: row for row in self.rows}
        unlike, answers = [], set()
        direct = [answer for answer in answered if "description" not in answer]
        for row, answer in ((answer["id"].removeprefix("Scenes/").rsplit(" ", 1)[0], answer["answer"]) for answer in direct):
            content = [{"type": "image"}, {"type": "text", "text": prompts[row]["prompt"]}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            inputs = processor(images=Image.open(self.images / prompts[row]["image"]), text=text, return_tensors="pt")
            ids = self.reference.generate(**inputs, do_sample=False, max_new_tokens=ANSWER_TOKENS)
            new = ids[0, inputs["input_ids"].shape[1] :]
            expected = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
            answers.add(expected)
            unlike += [f"{row}: {answer!r}, transformers {expected!r}"] if answer != expected else []
        what = self.label(f"greedy answers to {len(SIZES)} images are transformers'")
        self.checks.that(not unlike and len(answers) > 1, what, "; ".join(unlike) or "all answers are equal")

    # --- layouts, configs and processors ----------------------------------------------------------------------------

    def check_layouts(self) -> None:
        greedy = self.greedy(self.saved)
        self.check_greedy(greedy)
        greedy_named = self.greedy(self.saved, "--chat-template", self.kind.named_template)
        for layout in layouts.LAYOUTS:
            for shards in (1, 3):
                folder = self.scratch / f"{layout}, {'one file' if shards == 1 else 'sharded'}"
                if layout == "original":
                    self.write_original(folder, shards)
                    named = ["--chat-template", self.kind.named_template]
                    self.equal(self.score(folder, *named), folder.name, self.scored_named, ORIGINAL_IMAGE)
                    unlike = self.greedy(folder, *named) != greedy_named
                else:
                    layouts.write_hf(folder, self.saved, layout, shards, self.config)
                    self.equal(self.score(folder), folder.name)
                    unlike = self.greedy(folder) != greedy
                self.checks.that(not unlike, self.label(f"{folder.name}: the same greedy answers"))

    def write_original(self, folder: Path, shards: int, aspect: str | None = None) -> None:
        """An original checkpoint with the tower inside, and the configs of the tower's repository, which give its sizes."""
        folder.mkdir(parents=True)
        weights = layouts.saved_weights(self.saved)
        renamed = {layouts.rename(name, "original"): value for name, value in weights.items()}
        layouts.write_weights(folder, renamed, shards)
        aspect = aspect or ("anyres" if self.kind.anyres else "square")
        config = layouts.original_config(self.config, self.kind.original, self.kind.image_tower, aspect)
        if self.kind.anyres and shards > 1:  # some repositories write it as text
            config["image_grid_pinpoints"] = str([tuple(pair) for pair in config["image_grid_pinpoints"]])
        layouts.write_json(folder / "config.json", config)
        (folder / "vision_tower").mkdir()
        layouts.write_json(folder / "vision_tower/config.json", self.config["vision_config"])
        images = layouts.read_json(self.saved / "processor_config.json")["image_processor"]
        images.pop("image_grid_pinpoints", None)
        layouts.write_json(folder / "preprocessor_config.json", images | {"image_processor_type": "CLIPImageProcessor"})
        base_tokenizer().save(str(folder / "tokenizer.json"))

    def check_configs(self) -> None:
        """Configs and processors as older versions of transformers wrote them."""
        old = layouts.old_config(self.config)
        text = old["text_config"]
        for absent in ("hidden_act", "rope_parameters", "attention_dropout"):
            assert absent not in text, f"{absent} is in the config"
        folder = self.scratch / "old config"
        layouts.write_hf(folder, self.saved, "hub files", 2, old)
        scored = self.score(folder)
        self.equal(scored, f"a config without class defaults ({len(text)} fields of {len(self.config['text_config'])})")
        self.close(scored, load(folder), "the same in transformers")

        for patch_size in (layouts.read_json(self.saved / "processor_config.json")["patch_size"], None):
            folder = self.scratch / f"three processor files, patch_size {patch_size}"
            layouts.write_hf(folder, self.saved, "hub files", 1, old)
            layouts.three_processor_files(folder, patch_size)
            self.equal(self.score(folder), folder.name)

    def check_dtypes(self) -> None:
        for dtype in (torch.float16, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            folder = self.scratch / name
            layouts.write_hf(folder, self.saved, "hub files", 2, self.config | {"dtype": name}, dtype)
            scored = self.score(folder)
            self.close(scored, load(folder), f"weights in {name}")
            self.checks.that(bool(difference(self.scored, scored)), self.label(f"weights in {name} are other weights"))

    # --- adapters ---------------------------------------------------------------------------------------------------

    def check_adapter(self) -> None:
        """An adapter of the original LLaVA: its tensor names, untrained LoRA weights for CLIP, and the projector."""
        lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LANGUAGE_MODEL, task_type="CAUSAL_LM")
        policy = get_peft_model(self.kind.make(), lora).eval()
        torch.manual_seed(7)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        tensors = {name: tensor.contiguous() for name, tensor in lora_tensors(policy).items()}
        original, exported = self.scratch / "adapter-original", self.scratch / "adapter-exported"
        self.write_original_adapter(original, tensors)
        # The projector beside it is the base model's.
        same_projector = "--ignore-trained-projector"
        self.trainer.run("export", "adapter", "--model", self.saved, "--adapter", original, "--output", exported,
                         same_projector)

        loaded = PeftModel.from_pretrained(self.kind.make(), exported).eval()
        found = lora_tensors(loaded)
        unlike = [name for name in tensors.keys() | found.keys()
                  if name not in tensors or name not in found or not torch.equal(tensors[name], found[name])]
        what = self.label(f"PEFT loads all {len(tensors)} tensors of an adapter with original names")
        self.checks.that(not unlike, what, str(unlike[:3]))
        scored = self.score(self.saved, "--adapter", exported)
        self.close(scored, policy, "the exported adapter in PEFT", "adapter")
        self.close(scored, loaded, "the same loaded from its folder", "adapter")
        renamed = self.score(self.saved, "--adapter", original, same_projector)
        self.equal(renamed, "the adapter under its original names", scored)
        changed = worst((scored.log_probs[row, "adapter"], scored.log_probs[row, "base"]) for row in scored.fed)
        self.checks.that(changed > 0.1, self.label(f"it changes log-probabilities, by up to {changed:.2g} nats"))

    def write_original_adapter(self, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        folder.mkdir()
        here, there = "model.language_model.layers", "model.layers"
        renamed = {name.replace(here, there): value for name, value in tensors.items()}
        assert renamed.keys().isdisjoint(tensors)
        width = self.config["vision_config"]["hidden_size"]
        for layer in range(self.config["vision_config"]["num_hidden_layers"]):
            for projection in "qkv":
                place = (f"base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers.{layer}."
                         f"self_attn.{projection}_proj")
                renamed[f"{place}.lora_A.weight"] = torch.randn(RANK, width)
                renamed[f"{place}.lora_B.weight"] = torch.zeros(width, RANK)
        save_file(renamed, folder / "adapter_model.safetensors")
        targets = ["o_proj", "down_proj", "k_proj", "up_proj", "gate_proj", "v_proj", "q_proj"]
        layouts.write_json(folder / "adapter_config.json", {
            "base_model_name_or_path": "liuhaotian/llava", "bias": "none", "fan_in_fan_out": False,
            "inference_mode": True, "init_lora_weights": True, "layers_pattern": None, "layers_to_transform": None,
            "lora_alpha": ALPHA, "lora_dropout": 0.05, "modules_to_save": None, "peft_type": "LORA", "r": RANK,
            "revision": None, "target_modules": targets, "task_type": "CAUSAL_LM"})
        weights = {layouts.rename(name, "original"): value for name, value in layouts.saved_weights(self.saved).items()}
        projector = {f"base_model.model.{name}": value for name, value in weights.items() if "mm_projector" in name}
        torch.save(projector, folder / "non_lora_trainables.bin")

    # --- original repositories --------------------------------------------------------------------------------------

    def check_padding(self) -> None:
        """`image_aspect_ratio: pad` with the tower's own preprocessor_config.json."""
        folder = self.scratch / "pad"
        self.write_original(folder, 1, aspect="pad")
        scored = self.score(folder, "--chat-template", self.kind.named_template)
        images = layouts.read_json(folder / "preprocessor_config.json")
        images.pop("image_processor_type")
        processor = LlavaImageProcessorPil(**images | {"do_pad": True})
        what = self.label("pixel values padded to a square")
        check_pixels(self.checks, what, scored, self.rows, self.images, processor)
        self.close(scored, self.reference, "log-probabilities of them", image=ORIGINAL_IMAGE)


def check_pixels(checks: Checks, what: str, scored: Scored, rows: list[dict], images: Path, processor) -> None:
    shown = [row for row in rows if "image" in row]
    unlike = []
    for row in shown:
        values = np.asarray(processor(Image.open(images / row["image"]), return_tensors="np")["pixel_values"])
        found = scored.fed[row["id"]]["pixel_values"]
        if not torch.equal(torch.from_numpy(values.reshape(-1, *values.shape[-3:])).float(), found):
            unlike.append(row["image"])
    checks.that(bool(shown) and not unlike, f"{what} are transformers' to the bit", str(unlike))


def check_bare_original(kind: Kind, checks: Checks, trainer: Trainer, scratch: Path) -> None:
    """A checkpoint as haotian-liu/LLaVA published them: nothing but weights, `tokenizer.model` and config.json."""
    folder, images = scratch / kind.name / "bare", scratch / kind.name / "bare-images"
    folder.mkdir(parents=True)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(SPM))
    vocabulary = tokenizer.vocab_size()
    reference = kind.make(vocabulary, image_size=336)
    reference.save_pretrained(scratch / kind.name / "bare-reference")
    saved = scratch / kind.name / "bare-reference"
    tensors = {layouts.rename(name, "original"): value for name, value in layouts.saved_weights(saved).items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):  # without the rows that the hub's conversion adds
        tensors[name] = tensors[name][:vocabulary].contiguous()
    config = layouts.read_json(saved / "config.json")
    config["text_config"]["vocab_size"] = vocabulary
    tower = "openai/clip-vit-large-patch14-336"
    original = layouts.original_config(config, kind.original, tower, "anyres" if kind.anyres else "pad")
    if kind.anyres:  # LLaVA-1.6 contains its tower; the default sizes are those of the real one
        original["vision_config"] = config["vision_config"]
    else:  # LLaVA-1.5 refers to CLIP's repository
        tensors, clip = layouts.split_tower(tensors)
        (folder / "clip-vit-large-patch14-336").mkdir()
        layouts.write_weights(folder / "clip-vit-large-patch14-336", clip)
        layouts.write_json(folder / "clip-vit-large-patch14-336/config.json",
                           {"model_type": "clip", "vision_config": config["vision_config"]})
    layouts.write_weights(folder, tensors, shards=2)
    layouts.write_json(folder / "config.json", original)
    shutil.copy(SPM, folder / "tokenizer.model")

    # Small grids, because each tile has 576 patches here.
    rows = make_rows(save_pictures(images, [(140, 31), (20, 33), (36, 36)]))
    rows = [row for row in rows if "response" in row]
    scored = trainer.score(folder, rows, images, "--chat-template", kind.named_template)

    sizes = dict(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    processor = LlavaNextImageProcessorPil(**sizes) if kind.anyres else LlavaImageProcessorPil(do_pad=True, **sizes)
    label = f"{kind.name}, original with tokenizer.model alone"
    check_pixels(checks, f"{label}: pixel values", scored, rows, images, processor)

    unlike = []
    for row in rows:
        fed = scored.fed[row["id"]]
        text = f"{kind.wrap(chr(10) * ('image' in row) + row['prompt'])} {row['response']}"
        head, found = [1], torch.cat([fed["prompt_ids"], fed["response_ids"]])
        if "image" in row:  # LLaVA's tokenizer_image_token encodes both sides separately
            before, text = text.split("\n", 1)
            tokens = int((found == ORIGINAL_IMAGE).sum())
            head, text = [1, *tokenizer.encode(before), *[ORIGINAL_IMAGE] * tokens], f"\n{text}"
        if found.tolist() != [*head, *tokenizer.encode(text), 2]:
            unlike.append(row["id"])
    checks.that(not unlike, f"{label}: token ids are SentencePiece's", str(unlike))

    with torch.no_grad():  # missing rows must not take part in the softmax
        reference.lm_head.weight = torch.nn.Parameter(reference.lm_head.weight[:vocabulary])
    expected = {row: log_probs(reference, fed, ORIGINAL_IMAGE) for row, fed in scored.fed.items()}
    checks.close(scored.difference(expected), f"{label}: log-probabilities of {scored.tokens()} tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", type=Path, required=True, help="the stic-trainer binary")
    arguments = parser.parse_args()
    quiet()
    checks, trainer = Checks(), Trainer(arguments.trainer)
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            model = Model(kind, checks, trainer, Path(folder))
            model.check_saved()
            model.check_layouts()
            model.check_configs()
            model.check_dtypes()
            model.check_adapter()
            if not kind.anyres:
                model.check_padding()
            check_bare_original(kind, checks, trainer, Path(folder))
    checks.finish()


if __name__ == "__main__":
    main()
