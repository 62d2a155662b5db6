"""Writes the models and expected tensors for the trainer's parity tests (`trainer/tests/parity.rs`).

    python tests/parity/make_fixtures.py                          # the two committed models, into trainer/tests/fixtures
    python tests/parity/make_fixtures.py --check                  # compares with the committed ones, writes nothing
    python tests/parity/make_fixtures.py --variants DIR           # seven others, for STIC_PARITY_DIR=DIR
    python tests/parity/make_fixtures.py --one DIR --seed 7 ...   # one with the given shape

Each folder is a random model as transformers saves it, `adapter0/` as PEFT saves it, and `fixture.safetensors`:

    prompt [1, P], yw / yl [1, n]        token ids; the prompt includes the image tokens
    pixel_values [1, crops, 3, H, W]     (LLaVA-1.5: [1, 3, H, W]); image_sizes [1, 2], height and width
    feats, logits_w, greedy              image features, logits of yw, 24 greedy tokens, without the adapter
    lw, ll / rw, rl                      log-probability per token with / without the adapter
    loss, grad.*, gnorm, step1.*         the paper's loss (DPO + alpha term), its gradients and their norm, and the
                                         weights after one AdamW step on gradients clipped to 1

Everything is drawn from `--seed`, on the CPU in f32 with eager attention. `bf16.safetensors` has the gradients of the same loss
with weights and `feats` rounded to bf16, as REFERENCE.grad.*, of each model in `bf16_references.py`.
"""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
)
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from bf16_references import references
from common import LANGUAGE_MODEL, quiet

VOCABULARY, BOS, EOS, IMAGE, PAD = 320, 1, 2, 3, 4
COMMITTED = Path(__file__).parents[2] / "trainer/tests/fixtures"
BETA, ALPHA_TERM, LEARNING_RATE, GREEDY_TOKENS = 0.1, 1 / 1024, 1e-2, 24


@dataclass(frozen=True)
class Spec:
    """The shape of a model and of its inputs."""

    name: str
    kind: str = "next"  # LLaVA-1.6, or "llava": LLaVA-1.5
    llm: str = "mistral"
    seed: int = 0
    hidden: int = 48
    intermediate: int = 96
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 12
    vision_hidden: int = 32
    vision_heads: int = 4
    vision_layers: int = 3
    vision_act: str = "quick_gelu"
    image_size: int = 56
    patch_size: int = 14
    grid: tuple[tuple[int, int], ...] = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # pinpoints, in crops down and across
    image: tuple[int, int] = (90, 150)  # height, width
    feature_layer: int | list[int] = -2
    prompt: int = 9  # text tokens
    chosen: int = 11
    rejected: int = 17
    rank: int = 4
    alpha: float = 8
    rslora: bool = False
    shard_bytes: int | None = None
    text: dict = field(default_factory=dict)  # more fields of the language model's config
    top: dict = field(default_factory=dict)  # more fields of the whole model's config

    @property
    def pinpoints(self) -> list[list[int]]:
        return [[down * self.image_size, across * self.image_size] for down, across in self.grid]


FIXTURES = [Spec("next"), Spec("llava", kind="llava", llm="llama", kv_heads=4)]

VARIANTS = [
    Spec("vicuna-tall", llm="llama", seed=11, kv_heads=4, image=(211, 47), grid=((1, 3), (3, 1)), prompt=21),
    Spec("window-wide", seed=12, hidden=64, heads=8, kv_heads=1, head_dim=16, layers=3, image=(31, 140), prompt=30,
         text={"sliding_window": 19}),
    Spec("tied-sharded", seed=13, vision_act="gelu", vision_layers=4, feature_layer=[-2, 1, -4], image=(101, 99),
         rank=7, alpha=5, shard_bytes=100_000, text={"tie_word_embeddings": True}, top={"tie_word_embeddings": True}),
    Spec("linear-rope-bias", kind="llava", llm="llama", seed=14, kv_heads=2, image_size=60, patch_size=12, rslora=True,
         feature_layer=-1, text={"attention_bias": True, "mlp_bias": True,
                                 "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 5e4}}),
    Spec("odd-widths", seed=15, hidden=80, intermediate=112, heads=5, kv_heads=5, head_dim=10, vision_hidden=40,
         vision_heads=5, image_size=42, image=(67, 64), grid=((2, 2), (2, 3), (1, 1)), prompt=3, rank=16, alpha=16,
         text={"rope_theta": 1e6, "rms_norm_eps": 1e-6}),
    Spec("small-image", seed=16, image_size=64, patch_size=16, image=(20, 33), vision_act="gelu", chosen=1, rejected=30,
         top={"projector_hidden_act": "gelu_pytorch_tanh", "multimodal_projector_bias": False}),
    Spec("class-token", kind="llava", llm="mistral", seed=17, kv_heads=1, feature_layer=[0, 3], rank=1, alpha=4,
         text={"sliding_window": 8}, top={"vision_feature_select_strategy": "full"}),
]


def build(spec: Spec):
    """The model's class and config."""
    vision = CLIPVisionConfig(
        hidden_size=spec.vision_hidden, intermediate_size=2 * spec.vision_hidden, num_hidden_layers=spec.vision_layers,
        num_attention_heads=spec.vision_heads, image_size=spec.image_size, patch_size=spec.patch_size,
        projection_dim=16, hidden_act=spec.vision_act,
    )
    text = dict(
        vocab_size=VOCABULARY, hidden_size=spec.hidden, intermediate_size=spec.intermediate,
        num_hidden_layers=spec.layers, num_attention_heads=spec.heads, num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim, max_position_embeddings=512, rms_norm_eps=1e-5, initializer_range=0.2,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    )
    if spec.llm == "mistral":
        llm = MistralConfig(**text | {"sliding_window": None} | spec.text)
    else:
        llm = LlamaConfig(**text | spec.text)
    side = spec.image_size // spec.patch_size
    shared = dict(
        vision_config=vision, text_config=llm, image_token_index=IMAGE, image_seq_length=side * side,
        vision_feature_layer=spec.feature_layer,
    )
    if spec.kind == "next":
        config = LlavaNextConfig(image_grid_pinpoints=spec.pinpoints, **shared | spec.top)
        return LlavaNextForConditionalGeneration, config
    return LlavaForConditionalGeneration, LlavaConfig(**shared | spec.top)


def draw_image(spec: Spec, generator: torch.Generator) -> dict[str, torch.Tensor]:
    size = spec.image_size
    if spec.kind == "llava":
        return {"pixel_values": torch.randn((1, 3, size, size), generator=generator)}
    crops = image_size_to_num_patches(list(spec.image), spec.pinpoints, size)
    pixels = torch.randn((1, crops, 3, size, size), generator=generator)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([spec.image])}


def make(spec: Spec, out: Path) -> dict[str, torch.Tensor]:
    """Writes the folder `out` and returns the tensors of its `fixture.safetensors`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(spec.seed)
    cls, config = build(spec)
    shards = {"max_shard_size": spec.shard_bytes} if spec.shard_bytes else {}
    cls(config).float().eval().save_pretrained(out, **shards)
    (out / "generation_config.json").unlink(missing_ok=True)
    model = cls.from_pretrained(out, attn_implementation="eager").eval()

    generator = torch.Generator().manual_seed(spec.seed + 1)

    def ids(count: int) -> torch.Tensor:
        return torch.randint(PAD + 1, VOCABULARY, (1, count), generator=generator)

    image = draw_image(spec, generator)
    with torch.no_grad():
        features = torch.cat(list(model.get_image_features(**image).pooler_output))
    places = torch.full((1, len(features)), IMAGE)
    prompt = torch.cat([torch.tensor([[BOS]]), places, ids(spec.prompt)], 1)
    chosen = torch.cat([ids(spec.chosen), torch.tensor([[EOS]])], 1)
    rejected = torch.cat([ids(spec.rejected), torch.tensor([[EOS]])], 1)
    length = prompt.shape[1]

    def logits(policy, response: torch.Tensor) -> torch.Tensor:
        return policy(input_ids=torch.cat([prompt, response], 1), **image).logits[:, length - 1 : -1].float()

    def log_probs(policy, response: torch.Tensor) -> torch.Tensor:
        return logits(policy, response).log_softmax(-1).gather(-1, response[..., None])[0, :, 0]

    tensors = {"prompt": prompt, "yw": chosen, "yl": rejected, **image, "feats": features}
    with torch.no_grad():
        tensors["logits_w"] = logits(model, chosen)
        generated = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **image,
                                   max_new_tokens=GREEDY_TOKENS, do_sample=False)
        tensors["greedy"] = generated[:, length:]

    lora = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=LANGUAGE_MODEL, task_type="CAUSAL_LM",
                      use_rslora=spec.rslora)
    policy = get_peft_model(model, lora)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # initialized to zero, which would test nothing
            torch.nn.init.normal_(parameter, std=0.05)
    policy.save_pretrained(out / "adapter0")
    (out / "adapter0/README.md").unlink()
    adapter_config = json.loads((out / "adapter0/adapter_config.json").read_text())
    adapter_config["base_model_name_or_path"] = spec.name
    (out / "adapter0/adapter_config.json").write_text(json.dumps(adapter_config, indent=2))

    with torch.no_grad(), policy.disable_adapter():
        rw, rl = log_probs(policy, chosen), log_probs(policy, rejected)
    lw, ll = log_probs(policy, chosen), log_probs(policy, rejected)
    margin, loss = paper_loss(lw, ll, rw, rl)
    loss.backward()
    trained = [(name, parameter) for name, parameter in policy.named_parameters() if parameter.requires_grad]
    tensors |= {"lw": lw, "ll": ll, "rw": rw, "rl": rl, "loss": loss[None]}
    tensors |= {f"grad.{name}": parameter.grad.clone() for name, parameter in trained}
    parameters = [parameter for _, parameter in trained]
    tensors["gnorm"] = torch.nn.utils.clip_grad_norm_(parameters, 1.0)[None]
    torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0).step()
    tensors |= {f"step1.{name}": parameter for name, parameter in trained}
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(tensors, out / "fixture.safetensors")
    save_file(gradients_in_bf16(out, tensors), out / "bf16.safetensors")
    print(f"{spec.name}: loss {loss.item():.6f}, margin {margin.item():.6f}, gradient norm "
          f"{tensors['gnorm'].item():.5f}, {len(features)} image tokens, {len(trained)} LoRA tensors")
    return tensors


def paper_loss(lw, ll, rw, rl) -> tuple[torch.Tensor, torch.Tensor]:
    """The margin and the loss of a pair."""
    margin = BETA * ((lw.sum() - rw.sum()) - (ll.sum() - rl.sum()))
    return margin, -F.logsigmoid(margin) - ALPHA_TERM * lw.sum()


def gradients_in_bf16(folder: Path, fixture: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradients of the adapter, which is in f32, on each of the references."""
    prompt, chosen, rejected = fixture["prompt"], fixture["yw"], fixture["yl"]

    def log_probs(policy, response: torch.Tensor) -> torch.Tensor:
        ids = torch.cat([prompt, response], 1)
        embeddings = policy.get_input_embeddings()(ids).detach()
        embeddings[ids == IMAGE] = fixture["feats"].bfloat16().to(embeddings.dtype)
        logits = policy(inputs_embeds=embeddings).logits[:, prompt.shape[1] - 1 : -1].float()
        return logits.log_softmax(-1).gather(-1, response[..., None])[0, :, 0]

    tensors = {}
    for reference, model in references(folder).items():
        policy = PeftModel.from_pretrained(model, folder / "adapter0", is_trainable=True).eval()
        with torch.no_grad(), policy.disable_adapter():
            rw, rl = log_probs(policy, chosen), log_probs(policy, rejected)
        paper_loss(log_probs(policy, chosen), log_probs(policy, rejected), rw, rl)[1].backward()
        trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
        assert all(parameter.dtype == parameter.grad.dtype == torch.float32 for parameter in trained.values())
        tensors |= {f"{reference}.grad.{name}": parameter.grad for name, parameter in trained.items()}
    return tensors


def check(spec: Spec, committed: Path) -> bool:
    """Whether `make` reproduces the committed files: ids exactly, numbers up to the rounding of another CPU.
    `bf16.safetensors` is not compared: another order of sums changes them by far more than 1e-5."""
    with tempfile.TemporaryDirectory() as scratch:
        remade = Path(scratch)
        make(spec, remade)
        files = ["fixture.safetensors", "model.safetensors", "adapter0/adapter_model.safetensors"]
        good, worst = True, 0.0
        for file in files:
            new, old = load_file(remade / file), load_file(committed / file)
            good &= new.keys() == old.keys()
            for name in new.keys() & old.keys():
                same = new[name].shape == old[name].shape and new[name].dtype == old[name].dtype
                difference = (new[name].double() - old[name].double()).abs().max().item() if same else float("inf")
                # If a gradient is near zero, its rounding decides Adam's first step.
                limit = 2 * LEARNING_RATE if name.startswith("step1.") else 1e-5 if new[name].is_floating_point() else 0
                good &= difference <= limit
                worst = max(worst, difference)
        good &= (remade / "config.json").read_text() == (committed / "config.json").read_text()
    print(f"{spec.name}: {'equals' if good else 'DIFFERS FROM'} {committed}, largest difference {worst:.1e}")
    return good


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--out", type=Path, default=COMMITTED, help="folder for the two committed models")
    what.add_argument("--check", action="store_true", help="compare with the committed models instead of writing")
    what.add_argument("--variants", type=Path, metavar="DIR", help="write the seven other models there")
    what.add_argument("--one", type=Path, metavar="DIR", help="write one model there, with the options below")
    one = parser.add_argument_group("options of --one")

    def pair(text: str) -> tuple[int, int]:
        first, second = text.split("x")
        return int(first), int(second)

    one.add_argument("--kind", choices=["next", "llava"])
    one.add_argument("--llm", choices=["mistral", "llama"])
    for name in ["seed", "hidden", "intermediate", "layers", "heads", "kv-heads", "head-dim", "vision-hidden",
                 "vision-heads", "vision-layers", "image-size", "patch-size", "prompt", "chosen", "rejected", "rank",
                 "shard-bytes"]:
        one.add_argument(f"--{name}", type=int)
    one.add_argument("--alpha", type=float)
    one.add_argument("--rslora", action="store_true", default=None)
    one.add_argument("--vision-act", choices=["quick_gelu", "gelu"])
    one.add_argument("--feature-layer", type=int, nargs="+")
    one.add_argument("--grid", type=pair, nargs="+", metavar="DOWNxACROSS", help="pinpoints, in crops")
    one.add_argument("--image", type=pair, metavar="HEIGHTxWIDTH", help="in pixels")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    quiet()
    if args.check:
        sys.exit(0 if all([check(spec, args.out / spec.name) for spec in FIXTURES]) else 1)
    if args.one:
        given = {name: value for name, value in vars(args).items()
                 if name in Spec.__dataclass_fields__ and value is not None}
        if len(given.get("feature_layer", [])) == 1:
            given["feature_layer"] = given["feature_layer"][0]
        make(replace(Spec(args.one.name), **given), args.one)
        return
    root, specs = (args.variants, VARIANTS) if args.variants else (args.out, FIXTURES)
    for spec in specs:
        shutil.rmtree(root / spec.name, ignore_errors=True)
        make(spec, root / spec.name)


if __name__ == "__main__":
    main()
