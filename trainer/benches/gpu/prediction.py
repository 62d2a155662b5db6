"""What an H200 should need: predicted from the counts of `profile_layer.py`, and the floor, from the sizes of the model alone.

A prediction adds up, over kinds of calls, the longest of three: the bytes that come from or go to the GPU's memory, the FLOPs, and
the launches. Kernels do not overlap in it, and allocations and the host's own work take no time. A floor is the same for a program
that makes no call more than it must and reads nothing twice.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from random_model import CROPS, PROMPT, RESPONSE_TOKENS, TEMPLATE_TOKENS, Shape, language_tensors, vision_tensors

# NVIDIA's data sheet of the H200 SXM says 4.8 TB/s, and without sparsity 989 TFLOP/s in bf16 and 67 in f32. The shares of them that
# a program reaches are assumed. Nothing here has been measured.
BANDWIDTH = 4.3e12
FLOPS = {
    "bf16": 700e12,  # cuBLAS, at the sizes of a 7B
    "f32": 50e12,
    "thin": 480e12,  # bf16 products of which one side is the rank of an adapter
    "attention": 300e12,  # tensor cores in a kernel of one's own
}
LAUNCH = 2.5e-6  # assumed: from one launch to the next while the GPU has nothing else to do
WAIT = 10e-6  # assumed: a copy to the host, for which both sides wait
LINK = 55e9  # of the 64 GB/s of PCIe 5.0 x16; the share is assumed
RANK, BATCH = 128, 8
WIDTH = 2  # bytes of a bf16
COUNTED = Path(__file__).with_name("counted.json")

Counts = dict[str, list[float]]  # by kind of call: calls, bytes, FLOPs


def combine(*terms: tuple[float, Counts]) -> Counts:
    """A weighted sum, without what cancels."""
    total: Counts = {}
    for weight, counts in terms:
        for name, values in counts.items():
            total[name] = [a + weight * b for a, b in zip(total.get(name, [0.0, 0.0, 0.0]), values, strict=True)]
    return {name: values for name, values in sorted(total.items()) if any(abs(value) > 1e-6 for value in values)}


def seconds(counts: Counts) -> float:
    """The time of counted calls on a GPU that does nothing else."""
    total = 0.0
    for name, (calls, moved, flops) in counts.items():
        kind, *words = name.split()
        if kind == "HtoD":
            total += max(calls * LAUNCH, moved / LINK)
        elif kind == "DtoH":
            total += calls * WAIT + moved / LINK
        elif kind == "DtoD":
            total += max(calls * LAUNCH, 2 * moved / BANDWIDTH)
        elif kind != "alloc":
            rate = FLOPS[words[0]] if kind == "product" else FLOPS["attention"]
            total += max(calls * LAUNCH, moved / BANDWIDTH, flops / rate)
    return total


@dataclass(frozen=True)
class Predictions:
    """From the counts, for a model of the 7B's widths with so many layers."""

    counted: dict
    shape: Shape

    @classmethod
    def load(cls, shape: Shape) -> "Predictions":
        return cls(json.loads(COUNTED.read_text()), shape)

    def vision(self) -> Counts:
        """The features come from the last layer but one, so the last is not computed."""
        counted = self.counted["vision"]
        return combine((1, counted["vision"]), (self.shape.vision_layers - 1, counted["vision_layer"]))

    def pair(self) -> Counts:
        """A pair of a batch of BATCH, with its share of the optimizer."""
        counted = self.counted["train"]
        step = combine((1, counted["step"]), (self.shape.layers, counted["step_layer"]))
        return combine((1, counted["rest"]), (self.shape.layers, counted["layer"]), (1, self.vision()), (1 / BATCH, step))

    def prefill(self) -> Counts:
        """An image, with the first token of two responses."""
        counted = self.counted["prefill"]
        return combine((1, counted["rest"]), (self.shape.layers, counted["layer"]), (1, self.vision()))

    def decode(self, rows: int, tokens: int) -> Counts:
        """A token of each row, half-way through responses of `tokens` tokens."""
        counted = self.counted["decode"][str(rows)]
        more = self.shape.image_tokens - self.counted["short_image_tokens"] + tokens / 2
        return combine((1, counted["rest"]), (self.shape.layers, counted["layer"]), (self.shape.layers * more, counted["token"]))

    def peak_bytes(self) -> float:
        """Of training with every layer checkpointed."""
        counted = self.counted["train"]["peak_bytes"]
        return outside_layers(self.shape) + counted["rest"] + self.shape.layers * counted["layer"]


def outside_layers(shape: Shape) -> int:
    """Bytes of all weights but those of the language model's layers."""
    tensors = language_tensors(shape) | vision_tensors(shape)
    return WIDTH * sum(math.prod(size) for name, (size, _) in tensors.items() if "language_model.model.layers" not in name)


def shared_tokens(shape: Shape) -> int:
    """Of a pair: its image and its prompt."""
    return shape.image_tokens + TEMPLATE_TOKENS + len(PROMPT)


def pair_tokens(shape: Shape) -> int:
    return shared_tokens(shape) + 2 * RESPONSE_TOKENS


def layer_parameters(shape: Shape) -> int:
    return sum(out * width for out, width in shape.projections().values())


def adapter_parameters(shape: Shape) -> int:
    return shape.layers * RANK * sum(out + width for out, width in shape.projections().values())


def vision_seconds(shape: Shape) -> float:
    """The vision tower over the crops of an image, without the projector."""
    parameters = 12 * shape.vision_hidden**2 * (shape.vision_layers - 1)
    return 2 * parameters * CROPS * (shape.side**2 + 1) / FLOPS["bf16"]


def attention_flops(shape: Shape, scores: float) -> float:
    """Of so many scores in every layer: two products for each head."""
    return 4 * shape.query_width * scores * shape.layers


def pair_floor(shape: Shape, recompute: bool) -> dict[str, float]:
    """Seconds of each part of one pair in a batch of BATCH. With `recompute` every layer is checkpointed: its forward pass runs
    twice."""
    tokens, shared = pair_tokens(shape), shared_tokens(shape)
    product = 2 * layer_parameters(shape) * shape.layers * tokens / FLOPS["bf16"]
    adapter = 2 * adapter_parameters(shape) * tokens / FLOPS["thin"]
    scores = shared**2 / 2 + 2 * RESPONSE_TOKENS * (shared + RESPONSE_TOKENS / 2)
    attention = attention_flops(shape, scores) / FLOPS["attention"]
    passes = 2 + recompute  # forward passes, and the reference's
    values = 2 * RESPONSE_TOKENS * shape.vocabulary * shape.hidden
    return {
        "products with the frozen weights, policy and reference": 2 * product,
        "the same backward, to the inputs only": product,
        "the same again, for checkpointed layers": recompute * product,
        "products with the adapter": (3 + recompute) * adapter,
        "attention, backward 2.5 times": (passes + 2.5) * attention,
        "norms, rotation, SwiGLU, residuals: 12 passes over the states": (
            passes * 12 * tokens * shape.hidden * WIDTH * shape.layers / BANDWIDTH),
        "head, three times": 6 * values / FLOPS["bf16"],
        "optimizer: 16 bytes a parameter": 16 * adapter_parameters(shape) / BATCH / BANDWIDTH,
        "vision tower": vision_seconds(shape),
    }


def peak_floor(shape: Shape, kept: int) -> float:
    """Bytes of training while `kept` layers keep their activations: weights, the adapter in f32 with its gradients and two moments,
    the inputs of the other layers, and the activations."""
    tokens = pair_tokens(shape)
    weights = outside_layers(shape) + WIDTH * layer_parameters(shape) * shape.layers
    activations = 7 * shape.hidden + 3 * shape.query_width + 3 * shape.key_width + 3 * shape.inner
    inputs = (shape.layers - kept) * tokens * shape.hidden * WIDTH
    return weights + 16 * adapter_parameters(shape) + inputs + max(kept, 1) * tokens * activations * WIDTH


def prefill_floor(shape: Shape) -> float:
    """Seconds of an image: every layer, and attention to what precedes."""
    tokens = shape.image_tokens
    products = 2 * layer_parameters(shape) * shape.layers * tokens / FLOPS["bf16"]
    return products + attention_flops(shape, tokens**2 / 2) / FLOPS["attention"] + vision_seconds(shape)


def decode_floor(shape: Shape, rows: int, images: int, tokens: int) -> float:
    """Seconds of a token of each row: the weights once, the keys and values of each image once, those of each row once."""
    weights = WIDTH * (layer_parameters(shape) * shape.layers + shape.vocabulary * shape.hidden)
    of_token = 2 * WIDTH * shape.key_width * shape.layers
    own = len(PROMPT) + TEMPLATE_TOKENS / 2 + tokens / 2
    return (weights + of_token * (images * shape.image_tokens + rows * own)) / BANDWIDTH


def load_floor(weight_bytes: int) -> float:
    return weight_bytes / LINK


def calls(counts: Counts) -> dict[str, float]:
    """The number of calls by kind, for the table of counts."""
    def number(kinds: Iterable[str]) -> float:
        return sum(values[0] for name, values in counts.items() if name.split()[0] in kinds)

    flops = sum(values[2] for name, values in counts.items() if name.startswith("product bf16"))
    moved = sum(values[1] for name, values in counts.items() if name.split()[0] in ("kernel", "product", "memset"))
    return {
        "launches of kernels": number(["kernel"]), "products in cuBLAS": number(["product"]),
        "TFLOP of products in bf16": flops / 1e12, "GB moved": moved / 1e9,
        "copies to the host": number(["DtoH"]), "copies to the device": number(["HtoD"]), "allocations": number(["alloc"]),
    }
