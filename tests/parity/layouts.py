"""Writes the layouts of LLaVA checkpoints from one that transformers 5 saved.

The tensor names are taken from published repositories, independently of the trainer's rename table.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaNextConfig, MistralConfig

# From the names that transformers 5 saves; the longest matching prefix applies.
LAYOUTS = {
    "saved by transformers 5": {},
    "hub files": {"vision_tower.": "vision_tower.vision_model."},
    "in memory": {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
        "image_newline": "model.image_newline",
    },
    "original": {
        "language_model.model.": "model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.vision_tower.vision_model.",
        "multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "multi_modal_projector.linear_2.": "model.mm_projector.2.",
        "image_newline": "model.image_newline",
    },
}
LAYOUTS["in memory, transformers 4"] = LAYOUTS["in memory"] | {"vision_tower.": "model.vision_tower.vision_model."}

PROCESSOR_FILES = ["processor_config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]


def rename(name: str, layout: str) -> str:
    table = LAYOUTS[layout]
    fits = [prefix for prefix in table if name.startswith(prefix)]
    if not fits:
        return name
    prefix = max(fits, key=len)
    return table[prefix] + name.removeprefix(prefix)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1) -> None:
    """One file, or several and their index; neighbours by name go into different files."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    files = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    names = sorted(tensors)
    for number, file in enumerate(files):
        save_file({name: tensors[name] for name in names[number::shards]}, folder / file, metadata={"format": "pt"})
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    weight_map = {name: files[position % shards] for position, name in enumerate(names)}
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def saved_weights(saved: Path) -> dict[str, torch.Tensor]:
    return load_file(saved / "model.safetensors")


def write_hf(
    folder: Path, saved: Path, layout: str, shards: int, config: dict, dtype: torch.dtype | None = None
) -> None:
    """A transformers repository with a single processor_config.json."""
    folder.mkdir(parents=True)
    tensors = {rename(name, layout): tensor.to(dtype or tensor.dtype) for name, tensor in saved_weights(saved).items()}
    write_weights(folder, tensors, shards)
    write_json(folder / "config.json", config)
    for name in PROCESSOR_FILES:
        shutil.copy(saved / name, folder)


def old_config(config: dict) -> dict:
    """A config as the hub has it: without class defaults, with `torch_dtype`, and `rope_theta` at the top level."""
    nested = {
        "text_config": {"llama": LlamaConfig, "mistral": MistralConfig},
        "vision_config": {"clip_vision_model": CLIPVisionConfig},
    }
    classes = {"llava": LlavaConfig, "llava_next": LlavaNextConfig}
    old = _without_defaults(config, classes[config["model_type"]]().to_dict(), keep=["model_type", *nested])
    for part, of_type in nested.items():
        fields = dict(config[part])
        theta = fields.pop("rope_parameters", {}).get("rope_theta", 10_000.0)
        defaults = of_type[fields["model_type"]]().to_dict()
        old[part] = _without_defaults(fields, defaults, keep=["model_type"])
        if theta != 10_000.0:
            old[part]["rope_theta"] = theta
    old.pop("dtype", None)
    return old | {"torch_dtype": "float32", "transformers_version": "4.39.0", "ignore_index": -100}


def _without_defaults(fields: dict, defaults: dict, keep: list[str]) -> dict:
    absent = object()
    return {key: value for key, value in fields.items() if key in keep or value != defaults.get(key, absent)}


def original_config(config: dict, model_type: str, tower: str, aspect: str) -> dict:
    """A config of haotian-liu/LLaVA: the language model's fields at the top level, the others with the prefix `mm_`."""
    text = dict(config["text_config"])
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    original = text | {
        "model_type": model_type,
        "torch_dtype": "float32",
        "freeze_mm_mlp_adapter": False,
        "mm_hidden_size": config["vision_config"]["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": tower,
        "image_aspect_ratio": aspect,
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
    }
    if aspect == "anyres":
        original |= {"image_grid_pinpoints": config["image_grid_pinpoints"], "mm_patch_merge_type": "spatial_unpad"}
    return original


def split_tower(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors without the vision tower, and the tower with the names of CLIP's repository."""
    prefix = "model.vision_tower.vision_tower."
    tower = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}, tower


def three_processor_files(folder: Path, patch_size: int | None) -> None:
    """Replaces the single processor_config.json and chat_template.jinja with the files of transformers 4."""
    single = read_json(folder / "processor_config.json")
    write_json(folder / "preprocessor_config.json", single.pop("image_processor"))
    write_json(folder / "processor_config.json", single | {"patch_size": patch_size})
    template = folder / "chat_template.jinja"
    write_json(folder / "chat_template.json", {"chat_template": template.read_text()})
    template.unlink()
