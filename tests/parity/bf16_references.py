"""A model in transformers in f32 and in bf16: as transformers rounds, and as the trainer does.

| transformers rounds to bf16 | the trainer rounds |
|---|---|
| a normed state, and its product with the norm's weight | the product |
| cos and sin, both products with them, and their sum | the sum |
| scores, scaled scores, and scores plus mask | scores |
| SiLU(gate), and its product with up | the product |
| the argument of QuickGELU's sigmoid, the sigmoid, and its product with the argument | the product |
| pixels, and their patch embeddings | the patch embeddings |
| a product plus bias | the product, and the product plus bias |
| logits | |

All else is the same in both. In particular PEFT, with its adapter in f32, adds the adapter's product in f32 to the frozen
one, and rounds the sum.
"""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForImageTextToText
from transformers.masking_utils import eager_mask

ATTENTION = "scaled_in_f32"


def references(folder: Path) -> dict[str, torch.nn.Module]:
    """By name. All have the weights of the checkpoint rounded to bf16."""
    return {
        "f32": load(folder, "eager").float(),
        "eager": load(folder, "eager"),
        "sdpa": load(folder, "sdpa"),
        "same": with_trainers_roundings(folder),
    }


def load(folder: Path, attention: str) -> torch.nn.Module:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=attention)
    return model.eval()


def with_trainers_roundings(folder: Path) -> torch.nn.Module:
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
    model = load(folder, ATTENTION)
    for name, module in model.named_modules():
        match type(module).__name__:
            case "LlamaRMSNorm" | "MistralRMSNorm":
                module.forward = partial(norm, module)
            case "LlamaMLP" | "MistralMLP":
                module.forward = partial(mlp, module)
            case "LlamaRotaryEmbedding" | "MistralRotaryEmbedding":
                module.forward = partial(angles, module.forward)
            case "QuickGELUActivation":
                module.forward = quick_gelu
            case "Conv2d":
                module.float().register_forward_hook(lambda module, inputs, patches: patches.bfloat16())
            case "Linear" if name == "lm_head":
                module.forward = partial(head, module)
            case "Linear" if module.bias is not None:
                module.forward = partial(add_bias, module)
    return model


def norm(layer, xs):
    wide = xs.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + layer.variance_epsilon)
    return (normed * layer.weight.float()).bfloat16()


def mlp(layer, xs):
    gate, up = layer.gate_proj(xs).float(), layer.up_proj(xs).float()
    return layer.down_proj((F.silu(gate) * up).bfloat16())


def angles(forward, xs, position_ids):
    """Angles in f32 make queries and keys in f32, which `attend` rounds."""
    return forward(xs.float(), position_ids)


def attend(module, query, key, value, attention_mask, scaling, **_):
    # The cache makes f32 of the values too, with the keys.
    query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    if groups := getattr(module, "num_key_value_groups", None):
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.mT).float() * scaling
    if attention_mask is not None:
        scores = scores + attention_mask.float()
    weights = scores.softmax(-1).bfloat16()
    return (weights @ value).transpose(1, 2).contiguous(), weights


def quick_gelu(xs):
    return (xs.float() * torch.sigmoid(1.702 * xs.float())).bfloat16()


def head(layer, hidden):
    return hidden.float() @ layer.weight.float().T


def add_bias(layer, xs):
    return F.linear(xs, layer.weight) + layer.bias
