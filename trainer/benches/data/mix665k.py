#!/usr/bin/env python3
"""A file of instructions with the statistics of llava_v1_5_mix665k.json, and what `prepare` takes to draw from it.

    mix665k.py generate VOLUMES [--rows N]     writes VOLUMES/llava/mix.json and its images
    mix665k.py config [--limit N]              prints the run config of its `prepare`
    mix665k.py measure TRAINER [--rows N] [--limit N] [--seconds N] [--mib N]

`measure` runs `prepare` on the quickstart's toy model and fails if it takes longer, or more memory.
"""

import argparse
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

ROWS = 665_000
# Of those rows.
REPEATED_IDS = 250_000
TEXT_ONLY = 41_000
MODEL_FIRST = 2_000
FOLDERS = ["coco/train2017", "gqa/images", "ocr_vqa/images", "textvqa/train_images", "vg/VG_100K"]
IMAGES = 60
QUESTIONS = [
    "How many shapes are there?",
    "What color is the object on the left?\nAnswer the question using a single word or phrase.",
    "Please provide a short description for this region: [0.42, 0.31, 0.78, 0.66].",
    "Is the circle above the square?",
    "What might have happened before this picture was taken? Explain it in detail.",
]
WORDS = "the a red blue green yellow circle square triangle above below left right of large small there is are and".split()


def png(width: int, height: int, seed: int) -> bytes:
    rows = (
        b"\0" + bytes((x * seed + y * c) & 0xF0 for x in range(width) for c in (3, 5, 7)) for y in range(height)
    )
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")


def turn(who: str, value: str) -> dict:
    return {"from": who, "value": value}


def broken(image: str) -> list[dict]:
    """One row of each kind that no run can use."""
    human, gpt = turn("human", "<image>\nWhat is it?"), turn("gpt", "A circle.")
    row = lambda **fields: {"id": "broken", "image": image, "conversations": [human, gpt]} | fields
    return [
        row(conversations=[human, turn("gpt", "")]),
        row(conversations=[turn("system", "Be brief."), human, gpt]),
        row(conversations=[human]),
        row(conversations=[]),
        row(image=[image, image]),
        row(image="coco/train2017/missing.png"),
        row(conversations=[human, turn("gpt", "half a character: \ud83d")]),
    ]


def rows(count: int, seed: int = 0):
    """The rows in their order. Only one is in memory, beside the ids."""
    draw = random.Random(seed)
    share = lambda part: round(count * part / ROWS)
    kinds = ["text"] * share(TEXT_ONLY) + ["model first"] * max(1, share(MODEL_FIRST))
    images = [f"{FOLDERS[i % len(FOLDERS)]}/{i:012}.png" for i in range(IMAGES)]
    bad = broken(images[0])
    kinds += bad
    kinds += ["image"] * (count - len(kinds))
    draw.shuffle(kinds)
    repeats = [True] * (share(REPEATED_IDS) - len(bad) + 1) + [False] * (count - share(REPEATED_IDS))
    draw.shuffle(repeats)
    repeated = iter(repeats)
    ids = []
    for kind in kinds:
        if isinstance(kind, dict):
            yield kind
            continue
        repeat = next(repeated, False) and ids
        name = draw.choice(ids) if repeat else f"{len(ids):012}"
        if not repeat:
            ids.append(name)
        turns = []
        for _ in range(draw.choice([1, 1, 2, 3, 3, 5, 8])):
            answer = " ".join(draw.choices(WORDS, k=draw.choice([1, 1, 2, 30, 150])))
            turns += [turn("human", draw.choice(QUESTIONS)), turn("gpt", answer)]
        if kind == "text":
            # Nothing of such a row is checked: it may begin with the model or say <image>.
            turns[0]["value"] += draw.choice(["", " What is an <image> tag?"])
            yield {"id": name, "model": "", "conversations": turns[draw.choice([0, 0, 1]) :]}
            continue
        turns[0]["value"] = "<image>\n" + turns[0]["value"]
        if kind == "model first":
            turns.insert(0, turn("gpt", "Hello! Show me an image."))
        yield {"id": name, "image": draw.choice(images), "conversations": turns}


def generate(volumes: Path, count: int) -> Path:
    folder = volumes / "llava"
    for i in range(IMAGES):
        path = folder / "images" / FOLDERS[i % len(FOLDERS)] / f"{i:012}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(640, 480, i + 1) if count > 10_000 else png(48, 40, i + 1))
    path = folder / "mix.json"
    with open(path, "w", encoding="utf-8") as out:
        # As LLaVA's file is written: one array, indented.
        for i, row in enumerate(rows(count)):
            text = json.dumps(row, indent=2)
            out.write(("[\n" if i == 0 else ",\n") + text)
        out.write("\n]\n")
    return path


def config(limit: int) -> dict:
    at = lambda volume, path="": {"volume": volume, "path": path}
    return {
        "version": 1,
        "run": {"kind": "StageTwoRun", "namespace": "default", "name": "mix", "uid": "u", "rerun": 0},
        "output": at("stic", "out"),
        "seed": 0,
        "task": {
            "prepare": {
                "model": {"location": at("models", "m"), "imageLayout": "Model"},
                "adapter": None,
                "source": {
                    "instructions": {
                        "location": at("llava"),
                        "file": "mix.json",
                        "images": at("llava", "images"),
                        "limit": limit,
                        "order": "Seeded",
                        "onUnreadable": "Skip",
                    }
                },
                "recipe": {
                    "descriptions": {
                        "prompts": ["Describe it."],
                        "sampling": {"temperature": 0.0, "topP": 1.0, "topK": 0, "maxNewTokens": 4},
                        "chatTemplate": "Auto",
                    }
                },
                "train": {
                    "objective": {"sft": {"infusion": "<image>\nImage description:\n{description}\n\n{question}"}},
                    "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["q_proj"]},
                    "optimizer": {
                        "learningRate": 0.001,
                        "schedule": "Cosine",
                        "warmupRatio": 0.0,
                        "weightDecay": 0.0,
                        "maxGradientNorm": 1.0,
                    },
                    "epochs": 1,
                    "globalBatchSize": 8,
                    "maxLength": 1024,
                    "withImage": True,
                    "chatTemplate": "Auto",
                    "saveSteps": 100,
                },
                "precision": "F32",
            }
        },
    }


def measure(trainer: str, count: int, limit: int, seconds: float, mib: float) -> None:
    quickstart = Path(__file__).resolve().parents[3] / "examples/quickstart/volumes"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(quickstart / "models/scenes-llava", root / "models/m")
        (root / "stic").mkdir()
        path = generate(root, count)
        (root / "config.json").write_text(json.dumps(config(limit)))
        size = path.stat().st_size
        started = time.monotonic()
        child = subprocess.Popen(
            [trainer, "step", "--config", "config.json", "--volumes", ".", "--result", "result.json"],
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        took, peak = time.monotonic() - started, usage.ru_maxrss / 1024
        result = json.loads((root / "result.json").read_text())
        print(json.dumps({
            "rows": count,
            "fileMB": round(size / 1e6),
            "limit": limit,
            "seconds": round(took, 1),
            "peakMiB": round(peak, 1),
            "items": result.get("items"),
        }))
        print(result.get("message", ""), file=sys.stderr)
        if child.returncode or took > seconds or peak > mib:
            sys.exit(f"exit code {child.returncode}, {took:.1f} s of {seconds:g}, {peak:.1f} MiB of {mib:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("generate")
    command.add_argument("volumes", type=Path)
    command.add_argument("--rows", type=int, default=ROWS)
    command = commands.add_parser("config")
    command.add_argument("--limit", type=int, default=5_000)
    command = commands.add_parser("measure")
    command.add_argument("trainer")
    command.add_argument("--rows", type=int, default=ROWS)
    command.add_argument("--limit", type=int, default=5_000)
    command.add_argument("--seconds", type=float, default=60)
    command.add_argument("--mib", type=float, default=95)  # 100 MB
    args = parser.parse_args()
    if args.command == "generate":
        print(generate(args.volumes, args.rows))
    elif args.command == "config":
        print(json.dumps(config(args.limit)))
    else:
        measure(os.path.abspath(args.trainer), args.rows, args.limit, args.seconds, args.mib)


if __name__ == "__main__":
    main()
