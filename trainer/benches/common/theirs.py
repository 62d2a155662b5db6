"""Their side, one process per measure: transformers, PEFT and TRL, used as documented.

    theirs.py JOB.json       JOB names the measure and its inputs; prints one JSON object
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainerCallback, TrainingArguments
from workload import BOS, EOS, rendered


class Peer:
    """The loaded model of a job."""

    def __init__(self, job: dict) -> None:
        self.job, self.device = job, job["device"]
        dtype = torch.float32 if job["precision"] == "F32" else torch.bfloat16
        model = AutoModelForImageTextToText.from_pretrained(job["model"], dtype=dtype)
        self.model = model.to(self.device).eval()
        self.processor = AutoProcessor.from_pretrained(job["model"])
        self.model.generation_config.eos_token_id = None  # every response has all its tokens
        self.model.generation_config.pad_token_id = self.processor.tokenizer.pad_token_id

    @torch.inference_mode()
    def respond(self, requests: list[dict], tokens: int) -> list[list[int]]:
        """Greedy responses to a batch of requests, padded on the left."""
        prompts = [rendered(request["prompt"]) for request in requests]
        images = [open_image(request) for request in requests]
        inputs = self.processor(images=images, text=prompts, padding=True, return_tensors="pt").to(self.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        sequences = self.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
        return sequences[:, inputs["input_ids"].shape[1] :].tolist()


def open_image(request: dict) -> Image.Image:
    """The image of a request; if our side corrupted it, at the same reduced size."""
    image = Image.open(request["image"]).convert("RGB")
    size = request.get("resized")
    return image.resize(size, Image.Resampling.BILINEAR) if size else image


def generate(peer: Peer) -> dict:
    """Seconds for all requests, `responses_per_batch` per call."""
    requests, responses_per_batch = peer.job["requests"], peer.job["responses_per_batch"]
    peer.respond(requests[:1], 2)
    started = time.perf_counter()
    responses = []
    for first in range(0, len(requests), responses_per_batch):
        responses += peer.respond(requests[first : first + responses_per_batch], peer.job["tokens"])
    return {"seconds": time.perf_counter() - started, "tokens": responses}


def decode(peer: Peer) -> dict:
    """Seconds for every token after the first, one response at a time: the median of several."""
    request, tokens = peer.job["requests"][:1], peer.job["tokens"]
    peer.respond(request, 2)

    def seconds(count: int) -> float:
        started = time.perf_counter()
        peer.respond(request, count)
        return time.perf_counter() - started

    differences = [seconds(1 + tokens) - seconds(1) for _ in range(peer.job["repeats"])]
    return {"seconds": statistics.median(differences)}


class Clock(TrainerCallback):
    """When training began, and when its last step ended."""

    started = ended = 0.0

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        self.ended = time.perf_counter()


def arguments(job: dict) -> dict:
    """Arguments of both trainers. Gradients are accumulated over batches of one example."""
    return dict(
        output_dir=job["scratch"], per_device_train_batch_size=1, gradient_accumulation_steps=job["batch"],
        num_train_epochs=1, learning_rate=job["rate"], lr_scheduler_type="constant", weight_decay=0.0,
        max_grad_norm=1.0, gradient_checkpointing=True, logging_steps=1, save_strategy="no", report_to=[],
        remove_unused_columns=False, disable_tqdm=True,
        bf16=job["precision"] != "F32", use_cpu=job["device"] == "cpu", seed=0,
    )


def train(trainer: Trainer, clock: Clock) -> dict:
    """Trains, and returns the seconds and what each step logged."""
    trainer.train()
    steps = [row for row in trainer.state.log_history if "grad_norm" in row]
    log = [{"loss": row["loss"], "grad_norm": row["grad_norm"]} for row in steps]
    return {"seconds": clock.ended - clock.started, "steps": log}


def sft(peer: Peer) -> dict:
    """transformers' Trainer with PEFT: the mean over the label tokens of the batch."""
    processor = peer.processor

    def collate(pairs: list[dict]) -> dict:
        (pair,) = pairs
        image = Image.open(pair["image"]).convert("RGB")
        text = f"{rendered(pair['prompt'])} {pair['chosen']}{EOS}"
        inputs = processor(images=image, text=text, return_tensors="pt")
        labels = inputs["input_ids"].clone()
        labels[:, : -pair["tokens"]] = -100
        return {**inputs, "labels": labels}

    clock = Clock()
    trainer = Trainer(
        model=PeftModel.from_pretrained(peer.model, peer.job["adapter"], is_trainable=True),
        args=TrainingArguments(**arguments(peer.job)), train_dataset=peer.job["pairs"], data_collator=collate,
        callbacks=[clock],
    )
    return train(trainer, clock)


def dpo(peer: Peer) -> dict:
    """TRL's DPOTrainer: the reference is the model with the adapter off."""
    from datasets import Dataset, Sequence
    from datasets import Image as ImageColumn
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"images": [pair["image"]], "prompt": f"{BOS}{rendered(pair['prompt'])}",
         "chosen": f" {pair['chosen']}{EOS}", "rejected": f" {pair['rejected']}{EOS}"}
        for pair in peer.job["pairs"]
    ]
    config = DPOConfig(
        loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.25], beta=0.1, max_length=None, **arguments(peer.job)
    )
    clock = Clock()
    trainer = DPOTrainer(
        model=peer.model, peft_config=PeftConfig.from_pretrained(peer.job["adapter"]), args=config,
        train_dataset=Dataset.from_list(rows).cast_column("images", Sequence(ImageColumn())),
        processing_class=peer.processor, callbacks=[clock],
    )
    # Given a model with an adapter, TRL would use a copy of the adapter as the reference.
    set_peft_model_state_dict(trainer.model, load_file(Path(peer.job["adapter"]) / "adapter_model.safetensors"))
    return train(trainer, clock)


def main() -> None:
    """Runs the job of the first argument."""
    job = json.loads(Path(sys.argv[1]).read_text())
    # Libraries print to stdout, which must contain only the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(job["threads"])
    measure = {"generate": generate, "decode": decode, "sft": sft, "dpo": dpo}[job["measure"]]
    answer.write(json.dumps(measure(Peer(job))))
    answer.close()


if __name__ == "__main__":
    main()
