"""A random LLaVA-1.6-Mistral, images and preference pairs, written with the standard library alone.

The cost of a step does not depend on the values of the weights, so every tensor repeats one block of normal values. Tokens are
bytes: the length of a text in tokens is its length in bytes.
"""

import array
import json
import math
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATCH = 14
SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
EOS, IMAGE, PAD = 2, 3, 4
WIDTH, HEIGHT = 640, 480
CROPS = 5  # of such an image: the whole of it and a grid of two by two
PROMPT = "Describe everything that the picture shows."
TEMPLATE_TOKENS = len("[INST] \n [/INST]") + 1  # with BOS; the image is counted by itself
RESPONSE_TOKENS = 150
BLOCK = 1_048_583  # prime, so that no row of a matrix starts where another does


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. All others are those of LLaVA-1.6-Mistral-7B."""

    layers: int = 32
    hidden: int = 4096
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    inner: int = 14336
    vocabulary: int = 32064
    vision_layers: int = 24
    vision_hidden: int = 1024
    crop: int = 336  # the side of a crop, in pixels

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def side(self) -> int:
        """Patches along a side of a crop."""
        return self.crop // PATCH

    @property
    def pinpoints(self) -> list[list[int]]:
        """The grids of an image, as heights and widths in pixels."""
        return [[self.crop * down, self.crop * across] for down, across in [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]]

    @property
    def image_tokens(self) -> int:
        """Of an image of WIDTH x HEIGHT: the base crop, and the rows of the grid that are not padding, each with a newline."""
        padding = (2 * self.side - 2 * self.side * HEIGHT // WIDTH) // 2
        return self.side**2 + (2 * self.side - 2 * padding) * (2 * self.side + 1)

    def projections(self) -> dict[str, tuple[int, int]]:
        """The seven projections of a layer, each with the sizes of its result and of its argument."""
        return {
            "self_attn.q_proj": (self.query_width, self.hidden), "self_attn.k_proj": (self.key_width, self.hidden),
            "self_attn.v_proj": (self.key_width, self.hidden), "self_attn.o_proj": (self.hidden, self.query_width),
            "mlp.gate_proj": (self.inner, self.hidden), "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
        }


# Narrow, for tests of the benchmark itself.
TINY = Shape(
    hidden=128, heads=4, kv_heads=2, head_dim=32, inner=256, vocabulary=512, vision_layers=3, vision_hidden=64, crop=28
)

Tensors = dict[str, tuple[tuple[int, ...], str]]


def language_tensors(shape: Shape) -> Tensors:
    """The shape and the kind of each tensor of the language model: random values, ones, or random but for the row of EOS."""
    top, tensors = (shape.vocabulary, shape.hidden), {}
    tensors["language_model.model.embed_tokens.weight"] = (top, "random")
    # A logit of 0 is far below the largest of so many, so no greedy response ends early.
    tensors["language_model.lm_head.weight"] = (top, "without EOS")
    tensors["language_model.model.norm.weight"] = ((shape.hidden,), "ones")
    for layer in range(shape.layers):
        prefix = f"language_model.model.layers.{layer}"
        for norm in ["input_layernorm", "post_attention_layernorm"]:
            tensors[f"{prefix}.{norm}.weight"] = ((shape.hidden,), "ones")
        for name, size in shape.projections().items():
            tensors[f"{prefix}.{name}.weight"] = (size, "random")
    return tensors


def vision_tensors(shape: Shape) -> Tensors:
    """Those of the vision tower and of the projector."""
    wide, tower = shape.vision_hidden, "vision_tower.vision_model"
    tensors: Tensors = {
        "image_newline": ((shape.hidden,), "random"),
        f"{tower}.embeddings.class_embedding": ((wide,), "random"),
        f"{tower}.embeddings.patch_embedding.weight": ((wide, 3, PATCH, PATCH), "random"),
        f"{tower}.embeddings.position_embedding.weight": ((shape.side**2 + 1, wide), "random"),
    }

    def linear(name: str, out: int, width: int) -> None:
        tensors.update({f"{name}.weight": ((out, width), "random"), f"{name}.bias": ((out,), "zeros")})

    def norm(name: str) -> None:
        tensors.update({f"{name}.weight": ((wide,), "ones"), f"{name}.bias": ((wide,), "zeros")})

    norm(f"{tower}.pre_layrnorm")
    norm(f"{tower}.post_layernorm")
    for layer in range(shape.vision_layers):
        prefix = f"{tower}.encoder.layers.{layer}"
        norm(f"{prefix}.layer_norm1")
        norm(f"{prefix}.layer_norm2")
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"]:
            linear(f"{prefix}.self_attn.{part}", wide, wide)
        linear(f"{prefix}.mlp.fc1", 4 * wide, wide)
        linear(f"{prefix}.mlp.fc2", wide, 4 * wide)
    linear("multi_modal_projector.linear_1", shape.hidden, wide)
    linear("multi_modal_projector.linear_2", shape.hidden, shape.hidden)
    return tensors


def random_block() -> bytes:
    """BLOCK normal values with a standard deviation of 0.02 in bf16, which is the upper half of an f32."""
    drawn = random.Random(0)
    wide = array.array("f", (drawn.gauss(0, 0.02) for _ in range(BLOCK))).tobytes()
    narrow = bytearray(2 * BLOCK)
    narrow[0::2], narrow[1::2] = wide[2::4], wide[3::4]
    return bytes(narrow)


def tensor_bytes(shape: tuple[int, ...], kind: str, block: bytes) -> Iterator[bytes]:
    """The values of one tensor, in pieces."""
    size = 2 * math.prod(shape)
    if kind == "ones":
        yield b"\x80\x3f" * (size // 2)
    elif kind == "zeros":
        yield bytes(size)
    elif kind == "without EOS":
        row = 2 * shape[1]
        yield from tensor_bytes((EOS, shape[1]), "random", block)
        yield bytes(row)
        yield from tensor_bytes((shape[0] - EOS - 1, shape[1]), "random", block)
    else:
        for start in range(0, size, len(block)):
            yield block[: size - start]


def write_weights(file: Path, tensors: Tensors) -> None:
    """Writes safetensors in bf16."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, _) in tensors.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = random_block()
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for shape, kind in tensors.values():
            for piece in tensor_bytes(shape, kind, block):
                out.write(piece)


def config(shape: Shape) -> dict:
    """`config.json`."""
    return {
        "model_type": "llava_next", "architectures": ["LlavaNextForConditionalGeneration"], "image_token_index": IMAGE,
        "image_grid_pinpoints": shape.pinpoints, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu", "tie_word_embeddings": False,
        "text_config": {
            "model_type": "mistral", "vocab_size": shape.vocabulary, "hidden_size": shape.hidden,
            "intermediate_size": shape.inner, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
            "max_position_embeddings": 32768, "sliding_window": None, "hidden_act": "silu",
        },
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": shape.vision_hidden, "patch_size": PATCH, "image_size": shape.crop,
            "intermediate_size": 4 * shape.vision_hidden, "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_hidden // 64, "projection_dim": 768,
        },
    }


def tokenizer() -> dict:
    """`tokenizer.json`: a byte-level BPE without merges. Rows of the embedding beyond it are tokens without a text."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    # Bytes that are not visible get the characters from 256 on, as in GPT-2.
    hidden = [chr(256 + number) for number in range(256 - len(visible))]
    vocabulary = {text: number for number, text in enumerate([*SPECIAL, *map(chr, visible), *hidden])}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": number, "content": text} | added for number, text in enumerate(SPECIAL)],
        "pre_tokenizer": level, "decoder": level,
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocabulary, "merges": []},
    }


def write_model(folder: Path, shape: Shape) -> int:
    """Writes a model in the layout of a hub repository, and returns the bytes of its weights."""
    folder.mkdir(parents=True)
    processor = {
        "image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": shape.pinpoints,
        "size": {"shortest_edge": shape.crop}, "crop_size": {"height": shape.crop, "width": shape.crop},
    }
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    files = {
        "config": config(shape), "preprocessor_config": processor, "tokenizer": tokenizer(), "tokenizer_config": names,
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    weights = folder / "model.safetensors"
    write_weights(weights, language_tensors(shape) | vision_tensors(shape))
    return weights.stat().st_size


def write_images(folder: Path, count: int) -> list[str]:
    """Writes PNG files of WIDTH x HEIGHT pixels, all different, and returns their names."""
    folder.mkdir(parents=True)
    names = [f"{number:03}.png" for number in range(count)]
    for number, name in enumerate(names):
        ramp = bytes((number * 31 + place) % 256 for place in range(3 * WIDTH + HEIGHT))
        lines = b"".join(b"\0" + ramp[line : line + 3 * WIDTH] for line in range(HEIGHT))
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(lines, 1)),
                  (b"IEND", b"")]
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
        ))
    return names


def make_pairs(images: list[str]) -> list[dict]:
    """One pair per image. Both responses have RESPONSE_TOKENS tokens, with the space before the text and EOS."""
    drawn = random.Random(0)

    def response() -> str:
        return "".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=RESPONSE_TOKENS - 2))

    return [{"id": name, "image": name, "prompt": PROMPT, "chosen": response(), "rejected": response()} for name in images]
