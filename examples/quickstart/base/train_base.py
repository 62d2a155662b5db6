"""Trains the quickstart's base model from random weights: LLaVA-1.6's architecture at about 2.7M parameters.

CLIP vision tower, projector, Mistral text model and tokenizer are all learned from generated scenes. The prompts of
describe-and-respond (a question infused with a description) never occur in training.
"""

import argparse
import io
import math
import os
import time
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
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

import generate_scenes as scenes
import prompts

SEED = 2405
VOCABULARY = 1024
CROP, PATCH = 32, 8
PINPOINTS = [[CROP, 2 * CROP], [2 * CROP, CROP], [2 * CROP, 2 * CROP], [3 * CROP, CROP], [CROP, 3 * CROP]]

SCENES = 24_000
BATCH = 32
LEARNING_RATE, WARMUP, WEIGHT_DECAY, CLIP_NORM = 1.5e-3, 200, 0.01, 1.0
SHARES = {"questions": 0.45, "careful": 0.25, "caption": 0.2, "hallucination": 0.1}
BUCKET = 32
LOG_EVERY, SAVE_EVERY = 100, 1000

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
    """One training sequence: a scene and the turns said about it."""

    scene: int
    turns: list[tuple[str, str]]


def make_sample(position: int) -> Sample:
    """The sample at one position of the run; each pass over the scenes says something else about them."""
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
    """Byte-level BPE, so that no text is unknown; `<image>` and `<pad>` stand after the vocabulary as in the hub's."""
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
    )
    text = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        sliding_window=None,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
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
    return LlavaNextForConditionalGeneration(config).float()


def scene_image(index: int) -> Image.Image:
    """The training scene as it is read back from its JPEG file."""
    return Image.open(io.BytesIO(scenes.jpeg(scenes.make_scene("train", index))))


class Crops:
    """The anyres crops of every training scene as bytes; normalising is left to the batch."""

    def __init__(self, processor: LlavaNextProcessor, workers: int) -> None:
        self.image_processor = processor.image_processor
        self.mean = torch.tensor(self.image_processor.image_mean).view(3, 1, 1)
        self.std = torch.tensor(self.image_processor.image_std).view(3, 1, 1)
        with Pool(workers) as pool:
            made = pool.map(self._make, range(SCENES), chunksize=200)
        self.crops = [torch.from_numpy(crops) for crops, _ in made]
        self.sizes = torch.tensor([size for _, size in made])
        self._check()

    def _make(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        made = self.image_processor(scene_image(index), do_rescale=False, do_normalize=False)
        return made["pixel_values"][0].astype(np.uint8), tuple(made["image_sizes"][0])

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        crops = torch.nn.utils.rnn.pad_sequence([self.crops[index] for index in indices], batch_first=True)
        pixel_values = (crops.float() / 255 - self.mean) / self.std
        return {"pixel_values": pixel_values, "image_sizes": self.sizes[indices]}

    def _check(self) -> None:
        """The bytes, normalised, are what the processor itself returns."""
        for index in range(32):
            expected = self.image_processor(scene_image(index), return_tensors="pt")["pixel_values"]
            torch.testing.assert_close(self.batch([index])["pixel_values"], expected, rtol=0, atol=1e-5)


def encode(processor: LlavaNextProcessor, sample: Sample, image_tokens: int) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation; only the answers and their end are learned."""
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
    """The ids equal those of the chat template and the processor, with one beginning of sequence."""
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
    """Right-padded ids, mask and labels."""
    width = max(len(ids) for ids, _ in encoded)
    rows = [(len(ids), ids + [pad] * (width - len(ids)), labels + [-100] * (width - len(ids))) for ids, labels in encoded]
    return {
        "input_ids": torch.tensor([ids for _, ids, _ in rows]),
        "attention_mask": torch.tensor([[1] * length + [0] * (width - length) for length, _, _ in rows]),
        "labels": torch.tensor([labels for _, _, labels in rows]),
    }


def learning_rate(step: int, steps: int) -> float:
    """Linear warmup, then a cosine to zero, as a share of the peak."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


def save(model: LlavaNextForConditionalGeneration, processor: LlavaNextProcessor, folder: Path) -> None:
    """Writes a bfloat16 copy as a hub repository has it."""
    copy = LlavaNextForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(arguments.threads)
    began = time.monotonic()

    samples = [make_sample(position) for position in range(arguments.steps * BATCH)]
    processor = make_processor(train_tokenizer(samples[:8000]))
    for sample in samples[:32]:
        check_encoding(processor, sample)
    model = make_model(processor.tokenizer)
    crops = Crops(processor, arguments.threads)
    image_tokens = processor._get_num_multimodal_tokens(crops.sizes.tolist())["num_image_tokens"]
    encoded = [encode(processor, sample, image_tokens[sample.scene]) for sample in samples]
    batches = make_batches([len(ids) for ids, _ in encoded])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters} parameters, {len(batches)} steps, prepared in {time.monotonic() - began:.0f} s", flush=True)

    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, (0.9, 0.98), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, len(batches)))
    model.train()
    losses = []
    for step, batch in enumerate(batches, start=1):
        inputs = collate([encoded[position] for position in batch], processor.tokenizer.pad_token_id)
        loss = model(**inputs, **crops.batch([samples[position].scene for position in batch])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % LOG_EVERY == 0 or step == len(batches):
            mean = sum(losses[-LOG_EVERY:]) / len(losses[-LOG_EVERY:])
            print(f"step {step} loss {mean:.4f} at {time.monotonic() - began:.0f} s", flush=True)
        if step % SAVE_EVERY == 0 or step == len(batches):
            save(model, processor, arguments.output)


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
