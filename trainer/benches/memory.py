"""Checks that memory does not grow with the number of images: the peak RSS of `generate` with few and with many images.

    python trainer/benches/memory.py [--trainer FILE] [--counts 1000 100000]

The images are hard links to a few files and the model is tiny, so that a hundred thousand images take minutes. Needs
trainer/benches/peers/requirements.txt, because transformers writes the model.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path += [str(Path(__file__).parent / "common"), str(Path(__file__).parents[2] / "tests/parity")]
from steps import Run, at, preference_recipe, train_recipe
from tiny_models import KINDS, picture

FILES = 16
MORE_AT_MOST = 0.05


def link_images(folder: Path, count: int) -> None:
    """Writes `count` images, hard links to FILES pictures, and a list of them."""
    folder.mkdir(parents=True)
    for number in range(FILES):
        picture(64, 48, number).save(folder / f"source-{number}.png")
    names = [f"{number:07}.png" for number in range(count)]
    for number, name in enumerate(names):
        os.link(folder / f"source-{number % FILES}.png", folder / name)
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))


def write_model(folder: Path) -> None:
    """The smallest LLaVA-1.5 of the tests."""
    kind = next(kind for kind in KINDS if kind.name == "llava")
    kind.make().save_pretrained(folder)
    kind.processor().save_pretrained(folder)


def peak_bytes(trainer: Path, work: Path, count: int) -> dict[str, int]:
    """The peak RSS of each step with `count` images and one token per response."""
    volumes = work / str(count)
    write_model(volumes / "models/tiny")
    link_images(volumes / "images", count)
    run = Run(trainer, volumes, "run", "tiny", threads=2)
    recipe = preference_recipe("Generate", "None", 1)
    source = {"location": at("images"), "listFile": "list.txt", "limit": None, "onUnreadable": "Fail"}
    prepared = run.prepare({"images": source}, recipe, train_recipe("sft", 1))
    return {"prepare": prepared.process.peak_rss_bytes, "generate": run.generate(recipe).process.peak_rss_bytes}


def main() -> None:
    """Prints the peaks; exits with 1 if many images take more than MORE_AT_MOST more than few."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    built = os.environ.get("STIC_BIN")
    parser.add_argument("--trainer", type=Path, default=built and Path(built, "stic-trainer"), required=not built,
                        help="the program; by default the one in the folder STIC_BIN, if that is set")
    parser.add_argument("--counts", type=int, nargs=2, default=[1_000, 100_000], help="few and many images")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="stic-memory-"))
    try:
        few, many = (peak_bytes(options.trainer.resolve(), work, count) for count in options.counts)
    finally:
        shutil.rmtree(work)
    for step in few:
        more = many[step] / few[step] - 1
        print(f"{step}: {few[step] / 1e6:.1f} MB with {options.counts[0]:,} images, {many[step] / 1e6:.1f} MB with "
              f"{options.counts[1]:,}, {more:+.1%}")
    if many["generate"] > few["generate"] * (1 + MORE_AT_MOST):
        sys.exit(f"generate takes more than {MORE_AT_MOST:.0%} more")


if __name__ == "__main__":
    main()
