"""Tiny random LLaVA-1.5 (Llama) and LLaVA-1.6 (Mistral) models with tokenizer, processor and chat template.

Shapes are class defaults of transformers where possible, so that a config may omit them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
BASE_VOCABULARY, PADDED_BY = 300, 64  # as the hub's 32,064 rows are the original 32,000, <image>, <pad> and padding
CROP, PATCH = 56, 14
PINPOINTS = [[CROP, 2 * CROP], [2 * CROP, CROP], [2 * CROP, 2 * CROP], [3 * CROP, CROP], [CROP, 3 * CROP]]
CORPUS = ["USER: Describe the image. ASSISTANT: a cat sits on a mat", "[INST] What is it? [/INST] It is a red bus."]

# The templates of llava-hf/llava-1.5-7b-hf and llava-hf/llava-v1.6-mistral-7b-hf, for one user turn and its answer.
_IMAGES = "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
_TEXTS = "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
VICUNA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}" + _IMAGES
    + _TEXTS + "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}" + _IMAGES
    + _TEXTS + "{{ part['text'] }}{% endfor %}{{ ' [/INST]' }}{% else %}"
    + _TEXTS + "{{ ' ' + part['text'] }}{% endfor %}{{ '</s> ' }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Kind:
    """One of the two models."""

    name: str
    original: str  # model_type of the original LLaVA
    seed: int
    template: str
    named_template: str  # the trainer's name of the original LLaVA's template
    wrap: Callable[[str], str]  # wraps a prompt in it
    image_tower: str = "openai/clip-vit-tiny-patch14-56"

    @property
    def anyres(self) -> bool:
        return self.name == "llava_next"

    def make(self, vocabulary: int = BASE_VOCABULARY, image_size: int = CROP) -> torch.nn.Module:
        """The model in float32."""
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=image_size,
            patch_size=PATCH, projection_dim=16,
        )
        shared = dict(
            vocab_size=vocabulary + PADDED_BY, num_hidden_layers=2, initializer_range=0.2, bos_token_id=1,
            eos_token_id=2, pad_token_id=vocabulary + 1,
        )
        side = image_size // PATCH
        top = dict(vision_config=vision, image_token_index=vocabulary, image_seq_length=side * side)
        torch.manual_seed(self.seed)
        if self.anyres:
            text = MistralConfig(hidden_size=64, intermediate_size=112, num_attention_heads=16, rms_norm_eps=1e-5,
                                 rope_theta=1e6, sliding_window=None, **shared)
            pinpoints = [[h * image_size // CROP, w * image_size // CROP] for h, w in PINPOINTS]
            config = LlavaNextConfig(text_config=text, image_grid_pinpoints=pinpoints, **top)
            return LlavaNextForConditionalGeneration(config).float().eval()
        text = LlamaConfig(hidden_size=48, intermediate_size=96, num_attention_heads=4, **shared)
        return LlavaForConditionalGeneration(LlavaConfig(text_config=text, **top)).float().eval()

    def processor(self):
        sizes = dict(size={"shortest_edge": CROP}, crop_size={"height": CROP, "width": CROP})
        tokenizer = tokenizer_with_image()
        rest = dict(patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
                    chat_template=self.template)
        if self.anyres:
            images = LlavaNextImageProcessorPil(image_grid_pinpoints=PINPOINTS, **sizes)
            return LlavaNextProcessor(images, tokenizer, **rest)
        return LlavaProcessor(CLIPImageProcessorPil(**sizes), tokenizer, **rest)


VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
KINDS = [
    Kind("llava", "llava_llama", 21, VICUNA, "vicuna-v1", lambda text: f"{VICUNA_SYSTEM} USER: {text} ASSISTANT:"),
    Kind("llava_next", "llava_mistral", 22, MISTRAL, "mistral-instruct", lambda text: f"[INST] {text} [/INST]"),
]


def base_tokenizer() -> Tokenizer:
    """A byte-level BPE of exactly BASE_VOCABULARY tokens that starts with BOS, as Llama's does; without <image>."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_VOCABULARY, special_tokens=[UNK, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    assert tokenizer.get_vocab_size() == BASE_VOCABULARY
    return tokenizer


def tokenizer_with_image() -> PreTrainedTokenizerFast:
    """As on the hub: <image> and <pad> follow the original's tokens."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base_tokenizer(), unk_token=UNK, bos_token=BOS, eos_token=EOS,
        extra_special_tokens={"image_token": "<image>"},
    )
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [BASE_VOCABULARY, BASE_VOCABULARY + 1]
    return tokenizer


def picture(width: int, height: int, seed: int) -> Image.Image:
    """A picture with edges and gradients."""
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = [np.sin(a * x + b * y + c) for a, b, c in random.uniform(-9, 9, (3, 3))]
    pixels = 127.5 + 127.5 * np.stack(waves, -1)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = random.integers(0, 256, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def save_pictures(folder: Path, sizes: list[tuple[int, int]]) -> list[str]:
    """Writes PNG files of the given (width, height), and returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{width}x{height}.png" for width, height in sizes]
    for seed, (name, size) in enumerate(zip(names, sizes, strict=True)):
        picture(*size, seed).save(folder / name)
    return names
