"""Trains the quickstart's base model from random weights: LLaVA-1.6's architecture at about 2.5M parameters.

CLIP vision tower, projector, Mistral text model and tokenizer are all learned from generated scenes. Like LLaVA's, the tower is
trained alone first: each patch learns to predict what it shows. Then everything is trained end to end. Prompts of
describe-and-respond (a question after a description) never occur in training.
"""

import argparse
import io
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import distributed
from torch.multiprocessing import start_processes
from torch.nn.functional import cross_entropy
from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

import generate_scenes as scenes
import prompts

SEED = 2405
VOCABULARY = 1024
CROP, PATCH = 24, 8
INITIALIZER_RANGE = 0.06  # about hidden_size ** -0.5: the usual 0.02 is for models twenty times as wide
PINPOINTS = [[CROP, 2 * CROP], [2 * CROP, CROP], [2 * CROP, 2 * CROP], [3 * CROP, CROP], [CROP, 3 * CROP]]

SCENES = 20_000
BATCH = 16
LEARNING_RATE, WARMUP, WEIGHT_DECAY, CLIP_NORM = 1.5e-3, 150, 0.01, 1.0
TOWER_STEPS, TOWER_BATCH = 1_200, 32
TOWER_RATE = 0.1  # of the learning rate, once the tower is trained
SHARES = {"questions": 0.38, "careful": 0.3, "caption": 0.22, "hallucination": 0.1}
BUCKET = 32
WIDTH_STEP = 32
LOG_EVERY, SAVE_EVERY = 100, 500

CHAT_TEMPLATE = """\
{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}\
{# Render all images first #}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}\
{# Render all text next #}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}\
{{ ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' }}\
{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{% generation %}{{ content['text'] }}{% endgeneration %}{% endfor %}{{ '</s>' }}\
{% endif %}{% endfor %}"""


@dataclass(frozen=True)
class Sample:
    """One training sequence: a scene and the turns of a conversation about it."""

    scene: int
    turns: list[tuple[str, str]]


def make_sample(position: int) -> Sample:
    """The sample at a position of the run; each pass over the scenes has other texts."""
    index, turn = position % SCENES, position // SCENES
    scene = scenes.make_scene("train", index)
    random = scene.random(f"sample/{turn}")
    task = random.choices(list(SHARES), SHARES.values())[0]
    if task == "questions":
        return Sample(index, scenes.questions(scene, turn))
    if task == "careful":
        return Sample(index, [(prompts.WELL_CURATED, scenes.careful_description(scene))])
    if task == "caption":
        return Sample(index, [(random.choice(prompts.CAPTION), scenes.short_caption(scene, turn))])
    return Sample(index, [(random.choice(prompts.HALLUCINATION), scenes.hallucinated_description(scene, turn))])


def train_tokenizer(samples: list[Sample]) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that no text is unknown; `<image>` and `<pad>` follow the vocabulary, as on the hub."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [f"[INST] {question} [/INST] {answer}" for sample in samples for question, answer in sample.turns]
    texts += [f"\n{text}" for text in (*prompts.HALLUCINATION, prompts.infuse("The image", "What"))] * 8
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=1024,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaNextProcessor:
    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": CROP}, crop_size={"height": CROP, "width": CROP}, image_grid_pinpoints=PINPOINTS
    )
    return LlavaNextProcessor(
        image_processor,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlavaNextForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=CROP,
        patch_size=PATCH,
        projection_dim=128,
        initializer_range=INITIALIZER_RANGE,
    )
    text = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        sliding_window=None,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(CROP // PATCH) ** 2,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    model = LlavaNextForConditionalGeneration(config).float()
    model.set_attn_implementation("eager")  # under autocast, faster on a CPU than the fused kernel's backward
    return model


def scene_image(index: int) -> Image.Image:
    """The training scene as it is read back from its JPEG file."""
    return Image.open(io.BytesIO(scenes.jpeg(scenes.make_scene("train", index))))


class Crops:
    """The anyres crops of every training scene as bytes, and what their patches show; the batch normalises."""

    def __init__(self, processor: LlavaNextProcessor, workers: int) -> None:
        self.image_processor = processor.image_processor
        self.mean = torch.tensor(self.image_processor.image_mean).view(3, 1, 1)
        self.std = torch.tensor(self.image_processor.image_std).view(3, 1, 1)
        with Pool(workers) as pool:
            made = pool.map(self._make, range(SCENES), chunksize=200)
        self.crops = [torch.from_numpy(crops) for crops, _, _ in made]
        self.patches = [torch.from_numpy(patches) for _, patches, _ in made]
        self.sizes = torch.tensor([size for _, _, size in made])
        self._check()

    def _make(self, index: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        raw = {"do_rescale": False, "do_normalize": False}
        made = self.image_processor(scene_image(index), **raw)
        labels = scenes.label_map(scenes.make_scene("train", index))
        labels = self.image_processor(labels, resample=Image.Resampling.NEAREST, **raw)["pixel_values"][0][:, 0]
        crops = made["pixel_values"][0].astype(np.uint8)
        return crops, patch_labels(labels.astype(np.uint8)), tuple(made["image_sizes"][0])

    def normalized(self, crops: torch.Tensor) -> torch.Tensor:
        return (crops.float() / 255 - self.mean) / self.std

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        crops = torch.nn.utils.rnn.pad_sequence([self.crops[index] for index in indices], batch_first=True)
        return {"pixel_values": self.normalized(crops), "image_sizes": self.sizes[indices]}

    def labelled(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """All crops of some scenes with the labels of their patches."""
        crops = torch.cat([self.crops[index] for index in indices])
        return self.normalized(crops), torch.cat([self.patches[index] for index in indices]).long()

    def _check(self) -> None:
        """Checks that the normalized bytes equal what the processor returns."""
        for index in range(32):
            expected = self.image_processor(scene_image(index), return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(self.batch([index])["pixel_values"], expected, rtol=0, atol=1e-5)


def patch_labels(labels: np.ndarray) -> np.ndarray:
    """The phrase that covers most of each patch, or 0 if shapes cover less than a fifth of it."""
    count, side = len(labels), CROP // PATCH
    patches = labels.reshape(count, side, PATCH, side, PATCH).swapaxes(2, 3).reshape(count, side * side, PATCH**2)
    votes = np.stack([(patches == phrase).sum(-1) for phrase in range(len(scenes.PHRASES) + 1)], axis=-1)
    covered = PATCH**2 - votes[..., 0] >= PATCH**2 / 5
    return np.where(covered, votes[..., 1:].argmax(-1) + 1, 0).astype(np.uint8)


def encode(processor: LlavaNextProcessor, sample: Sample, image_tokens: int) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation; only answers and the tokens that end them are learned."""
    tokenizer = processor.tokenizer
    ids, labels = [tokenizer.bos_token_id], [-100]
    for turn, (question, answer) in enumerate(sample.turns):
        image = "<image>" * image_tokens + "\n" if turn == 0 else ""
        asked = tokenizer(f"[INST] {image}{question} [/INST]", add_special_tokens=False)["input_ids"]
        answered = tokenizer(f" {answer}</s>", add_special_tokens=False)["input_ids"]
        ids += asked + answered
        labels += [-100] * len(asked) + answered
    return ids, labels


def check_encoding(processor: LlavaNextProcessor, sample: Sample) -> None:
    """Checks that the ids equal those of chat template and processor, with one BOS."""
    messages = []
    for turn, (question, answer) in enumerate(sample.turns):
        image = [{"type": "image"}] if turn == 0 else []
        messages.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    made = processor(images=scene_image(sample.scene), text=processor.apply_chat_template(messages))
    expected = made["input_ids"][0]
    ids, _ = encode(processor, sample, expected.count(processor.image_token_id))
    assert ids == expected and ids.count(processor.tokenizer.bos_token_id) == 1, sample


def make_batches(lengths: list[int]) -> list[list[int]]:
    """Shuffled batches of about equal length: sorted within stretches of the run, so that little is padding."""
    random = Random(SEED)
    stretch = BATCH * BUCKET
    batches = []
    for start in range(0, len(lengths), stretch):
        order = sorted(range(start, min(start + stretch, len(lengths))), key=lambda position: lengths[position])
        cut = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
        random.shuffle(cut)
        batches += cut
    return batches


def collate(encoded: list[tuple[list[int], list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded ids, mask and labels. Widths are rounded up, because matrix kernels are compiled for each shape."""
    width = math.ceil(max(len(ids) for ids, _ in encoded) / WIDTH_STEP) * WIDTH_STEP
    return {
        "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in encoded]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in encoded]),
        "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in encoded]),
    }


def schedule(step: int, steps: int) -> float:
    """Linear warmup, then a cosine to zero, as a share of the peak learning rate."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


def save(model: LlavaNextForConditionalGeneration, processor: LlavaNextProcessor, folder: Path) -> None:
    """Writes a bfloat16 copy in the layout of a hub repository."""
    copy = LlavaNextForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


def average_gradients(parameters: list[torch.nn.Parameter], workers: int) -> None:
    """Replaces each worker's gradients by their mean over the workers."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= workers
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@dataclass(frozen=True)
class Run:
    """The inputs of every worker."""

    output: Path
    workers: int
    rendezvous: str
    began: float
    processor: LlavaNextProcessor
    crops: Crops
    samples: list[Sample]
    encoded: list[tuple[list[int], list[int]]]


def optimize(name: str, groups: list[dict], losses: Iterable, steps: int, run: Run, checkpoint: Callable) -> None:
    """AdamW with one loss per step and gradients averaged over the workers."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, (0.9, 0.98), weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps))
    recent = []
    for step, loss in enumerate(losses, start=1):
        optimizer.zero_grad()
        loss.backward()
        average_gradients(parameters, run.workers)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        scheduler.step()
        recent.append(loss.item())
        if distributed.get_rank() == 0 and (step % LOG_EVERY == 0 or step == steps):
            seconds = time.monotonic() - run.began
            print(f"{name} step {step} loss {sum(recent) / len(recent):.4f} at {seconds:.0f} s", flush=True)
            recent = []
        if distributed.get_rank() == 0 and (step % SAVE_EVERY == 0 or step == steps):
            checkpoint()


def tower_losses(model: LlavaNextForConditionalGeneration, head: torch.nn.Linear, run: Run) -> Iterable:
    """Phase 1: predicts what each patch shows and where it is, from the layer that the projector will read."""
    random = Random(SEED)
    for _ in range(TOWER_STEPS):
        share = random.sample(range(SCENES), TOWER_BATCH)[distributed.get_rank() :: run.workers]
        pixel_values, labels = run.crops.labelled(share)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
            logits = head(hidden[model.config.vision_feature_layer][:, 1:])
        phrases, places = logits.float().flatten(0, 1).split([len(scenes.PHRASES) + 1, labels.shape[1]], dim=1)
        where = torch.arange(labels.shape[1]).repeat(len(labels))
        yield cross_entropy(phrases, labels.flatten()) + cross_entropy(places, where)


def model_losses(model: LlavaNextForConditionalGeneration, run: Run) -> Iterable:
    """Phase 2: the answers, end to end."""
    for batch in make_batches([len(ids) for ids, _ in run.encoded]):
        share = batch[distributed.get_rank() :: run.workers]
        inputs = collate([run.encoded[position] for position in share], run.processor.tokenizer.pad_token_id)
        inputs |= run.crops.batch([run.samples[position].scene for position in share])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs).loss
        yield loss


def train(rank: int, run: Run) -> None:
    """One worker with one thread. A batch is split over the workers, whose weights stay equal."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    distributed.init_process_group("gloo", init_method=run.rendezvous, rank=rank, world_size=run.workers)
    model = make_model(run.processor.tokenizer).train()
    tower = list(model.model.vision_tower.parameters())
    head = torch.nn.Linear(model.config.vision_config.hidden_size, len(scenes.PHRASES) + 1 + (CROP // PATCH) ** 2)
    groups = [{"params": [*tower, *head.parameters()]}]
    optimize("tower", groups, tower_losses(model, head, run), TOWER_STEPS, run, lambda: None)
    rest = [parameter for name, parameter in model.named_parameters() if "vision_tower" not in name]
    groups = [{"params": tower, "lr": LEARNING_RATE * TOWER_RATE}, {"params": rest}]
    steps = len(run.samples) // BATCH
    checkpoint = partial(save, model, run.processor, run.output)
    optimize("model", groups, model_losses(model, run), steps, run, checkpoint)
    distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()

    samples = [make_sample(position) for position in range(arguments.steps * BATCH)]
    processor = make_processor(train_tokenizer(samples[:8000]))
    for sample in samples[:32]:
        check_encoding(processor, sample)
    crops = Crops(processor, arguments.workers)
    image_tokens = processor._get_num_multimodal_tokens(crops.sizes.tolist())["num_image_tokens"]
    encoded = [encode(processor, sample, image_tokens[sample.scene]) for sample in samples]
    parameters = sum(parameter.numel() for parameter in make_model(processor.tokenizer).parameters())
    print(f"{parameters} parameters, {arguments.steps} steps, prepared in {time.monotonic() - began:.0f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            arguments.output, arguments.workers, f"file://{folder}/store", began, processor, crops, samples, encoded
        )
        start_processes(train, (run,), arguments.workers, start_method="fork")


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
