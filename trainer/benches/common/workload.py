"""The model, the images and the pairs for both sides.

A random LLaVA-1.6 on Mistral with the geometry of the real one: crops of 336 pixels with 576 patches each, its grids, and images
of 2,144 to 2,928 tokens. The cost of a step does not depend on the values of weights or on the words.
"""

import itertools
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

sys.path.append(str(Path(__file__).parents[3] / "tests/parity"))
from prompts import CAPTION_PROMPTS, HALLUCINATION_PROMPTS, WELL_CURATED_PROMPT
from tiny_models import BOS, EOS, MISTRAL, UNK, picture

CROP, PATCH = 336, 14
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
SIZES = [(640, 480), (640, 427), (640, 640), (480, 640)]  # 2,340, 2,144, 2,928 and 2,352 tokens
RESPONSE_TOKENS = 256
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# A list of names would also wrap the projections of CLIP, which has q, k and v as well.
LANGUAGE_MODEL = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"

WORDS = (
    "a the one two some many red green blue small large old new round bright dark street house tree table window sky "
    "water car bus dog cat bird person child woman man hat coat door wall light shadow cloud stone grass flower stands "
    "sits walks looks holds shows near behind under above with and of in on by from over quiet busy clear warm cold"
).split()


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. All others are those of LLaVA-1.6-Mistral."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vision_hidden: int
    vision_layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype


SHAPES = {
    "tiny": Shape(128, 2, 4, 256, 64, 3, 2, 32, torch.float32),
    "small": Shape(512, 8, 8, 1792, 256, 6, 2, 64, torch.float32),  # 60M parameters
    "7b": Shape(4096, 32, 32, 14336, 1024, 24, 8, 128, torch.bfloat16),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which each of WORDS is one token, and prompts have about one token per word."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=[UNK, BOS, EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    prompts = [*CAPTION_PROMPTS, WELL_CURATED_PROMPT, *HALLUCINATION_PROMPTS]
    tokenizer.train_from_iterator([*prompts, "".join(f" {word}" for word in WORDS)] * 2, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNK, bos_token=BOS, eos_token=EOS, padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
    )
    fast.add_special_tokens({"pad_token": "<pad>"})
    return fast


def write_model(folder: Path, shape: Shape, device: str = "cpu") -> None:
    """Writes weights, tokenizer and processor in the layout of a hub repository.

    No greedy response ends early: the logit of EOS is always 0, far below the largest of 32,064.
    """
    tokenizer = make_tokenizer()
    image, pad = tokenizer.convert_tokens_to_ids(["<image>", "<pad>"])
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_hidden, intermediate_size=4 * shape.vision_hidden, image_size=CROP, patch_size=PATCH,
        num_hidden_layers=shape.vision_layers, num_attention_heads=shape.vision_hidden // 64,
        projection_dim=shape.vision_hidden,
    )
    text = MistralConfig(
        vocab_size=32064, hidden_size=shape.hidden, intermediate_size=shape.intermediate, head_dim=shape.head_dim,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=1e6, sliding_window=None, initializer_range=0.05,
        bos_token_id=1, eos_token_id=2, pad_token_id=pad,
    )
    config = LlavaNextConfig(
        vision_config=vision, text_config=text, image_grid_pinpoints=PINPOINTS, image_token_index=image,
        image_seq_length=576,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(shape.dtype)
    with torch.device(device):
        model = LlavaNextForConditionalGeneration(config)
    torch.set_default_dtype(before)
    with torch.no_grad():
        model.lm_head.weight[2] = 0
    model.save_pretrained(folder)
    images = LlavaNextImageProcessorPil(
        image_grid_pinpoints=PINPOINTS, size={"shortest_edge": CROP}, crop_size={"height": CROP, "width": CROP}
    )
    LlavaNextProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=MISTRAL,
    ).save_pretrained(folder)


def write_adapter(folder: Path, shape: Shape, rank: int = 128, alpha: int = 256) -> None:
    """Writes a LoRA adapter with PEFT's names and the paper's rank and alpha. B is not zero, so it has an effect."""
    from safetensors.torch import save_file

    attention, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = {
        "self_attn.q_proj": (attention, shape.hidden), "self_attn.k_proj": (kv, shape.hidden),
        "self_attn.v_proj": (kv, shape.hidden), "self_attn.o_proj": (shape.hidden, attention),
        "mlp.gate_proj": (shape.intermediate, shape.hidden), "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for layer, (name, (out, width)) in itertools.product(range(shape.layers), sizes.items()):
        prefix = f"base_model.model.model.language_model.layers.{layer}.{name}"
        a = torch.rand(rank, width, generator=generator) * 2 - 1
        tensors[f"{prefix}.lora_A.weight"] = a / width**0.5
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 1e-3
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0,
        "bias": "none", "target_modules": LANGUAGE_MODEL, "base_model_name_or_path": "bench",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_images(folder: Path, count: int) -> list[str]:
    """Writes PNG files, which every decoder reads equally, and returns their names."""
    folder.mkdir(parents=True)
    names = [f"{number:04}.png" for number in range(count)]
    for number, (name, size) in enumerate(zip(names, itertools.cycle(SIZES))):
        picture(*size, number).save(folder / name)
    return names


def make_pairs(images: list[str], tokenizer: PreTrainedTokenizerFast) -> list[dict]:
    """One pair per image; both responses have RESPONSE_TOKENS tokens, including EOS."""
    drawn = random.Random(0)

    def response() -> str:
        text = " ".join(drawn.choices(WORDS, k=RESPONSE_TOKENS - 1))
        tokens = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        assert len(tokens) == RESPONSE_TOKENS - 1, f"{len(tokens)} tokens: a word of WORDS has more than one"
        return text

    return [
        {"id": name, "image": name, "prompt": prompt, "chosen": response(), "rejected": response()}
        for name, prompt in zip(images, itertools.cycle(CAPTION_PROMPTS))
    ]


def rendered(prompt: str) -> str:
    """The prompt in the model's template. An answer follows after a space, and ends with EOS."""
    return f"[INST] <image>\n{prompt} [/INST]"
