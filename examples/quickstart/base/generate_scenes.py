"""Scenes of coloured shapes, with descriptions of them and questions about them.

A scene is a function of (SEED, split, index) alone, so that each can be made again without the others. Run as a script, this
writes the quickstart's volumes: unlabelled images, instruction data and held-out questions.
"""

import argparse
import io
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

SEED = 2405
COLORS = {
    "red": (215, 40, 40),
    "blue": (45, 85, 220),
    "green": (45, 155, 65),
    "yellow": (240, 215, 45),
    "purple": (140, 55, 180),
    "orange": (245, 135, 30),
}
SHAPES = ("circle", "square", "triangle", "cross")
PHRASES = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
ROWS = COLUMNS = 3
ROW_NAMES, COLUMN_NAMES = ("top", "middle", "bottom"), ("left", "center", "right")
NUMBERS = ("no", "one", "two", "three", "four", "five")
OBJECTS_MIN, OBJECTS_MAX = 2, 5
EASY_SCENES, EASY_OBJECTS_MAX = 3_000, 2  # the first training scenes are easy, which teaches colors and shapes sooner
SIDE_MIN, SIDE_MAX, ASPECT_MAX = 48, 112, 1.9
SUPERSAMPLING = 4
TURNS = 4

UNLABELLED, INSTRUCTIONS, HELDOUT = 192, 240, 252


@dataclass(frozen=True)
class Item:
    """One shape, in the cell (row, column) of the scene's grid."""

    color: str
    shape: str
    row: int
    column: int

    @property
    def phrase(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def placed(self) -> str:
        return f"{ROW_NAMES[self.row]} {COLUMN_NAMES[self.column]} {with_article(self.phrase)}"


@dataclass(frozen=True)
class Scene:
    """A canvas with two to five shapes in reading order."""

    split: str
    index: int
    width: int
    height: int
    items: tuple[Item, ...]

    def random(self, purpose: str) -> Random:
        """The only source of randomness, independent for each purpose of each scene."""
        return Random(f"{SEED}/{self.split}/{self.index}/{purpose}")

    @property
    def phrases(self) -> list[str]:
        return [item.phrase for item in self.items]


def with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def listing(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def make_scene(split: str, index: int) -> Scene:
    random = Random(f"{SEED}/{split}/{index}/scene")
    while True:
        width, height = (random.randint(SIDE_MIN, SIDE_MAX) for _ in range(2))
        if max(width, height) <= ASPECT_MAX * min(width, height):
            break
    easy = split == "train" and index < EASY_SCENES
    count = random.randint(1, EASY_OBJECTS_MAX) if easy else random.randint(OBJECTS_MIN, OBJECTS_MAX)
    cells = sorted(random.sample(range(ROWS * COLUMNS), count))
    items = tuple(Item(random.choice(tuple(COLORS)), random.choice(SHAPES), *divmod(cell, COLUMNS)) for cell in cells)
    return Scene(split, index, width, height, items)


def outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """The polygon of a square, triangle or cross of radius r around (x, y)."""
    if shape == "square":
        corners = [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    elif shape == "triangle":
        corners = [(0, -1), (1, 0.85), (-1, 0.85)]
    else:
        a, b = 0.32, 1.0
        corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
        corners += [(a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    return [(x + r * dx, y + r * dy) for dx, dy in corners]


def draw_items(scene: Scene, image: Image.Image, fills: list) -> None:
    """Draws the shapes onto an image of the supersampled size, each at a random place in its cell."""
    random = scene.random("place")
    draw = ImageDraw.Draw(image)
    cell_width, cell_height = image.width / COLUMNS, image.height / ROWS
    for item, fill in zip(scene.items, fills, strict=True):
        r = random.uniform(0.38, 0.48) * min(cell_width, cell_height)
        x = (item.column + 0.5) * cell_width + random.uniform(-1, 1) * (cell_width / 2 - r)
        y = (item.row + 0.5) * cell_height + random.uniform(-1, 1) * (cell_height / 2 - r)
        if item.shape == "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        else:
            draw.polygon(outline(item.shape, x, y, r), fill=fill)


def render(scene: Scene) -> Image.Image:
    """Draws the scene at a multiple of its size and averages down, for smooth edges."""
    random = scene.random("render")
    shade = random.randint(105, 150)
    fills = [
        tuple(min(255, max(0, channel + random.randint(-20, 20))) for channel in COLORS[item.color])
        for item in scene.items
    ]
    size = scene.width * SUPERSAMPLING, scene.height * SUPERSAMPLING
    image = Image.new("RGB", size, (shade, shade, shade))
    draw_items(scene, image, fills)
    return image.reduce(SUPERSAMPLING)


def label_map(scene: Scene) -> Image.Image:
    """The phrase number of every pixel, 0 for the background, in each channel of an image of the scene's size."""
    size = scene.width * SUPERSAMPLING, scene.height * SUPERSAMPLING
    image = Image.new("RGB", size)
    draw_items(scene, image, [(PHRASES.index(item.phrase) + 1,) * 3 for item in scene.items])
    return image.resize((scene.width, scene.height), Image.Resampling.NEAREST)


def jpeg(scene: Scene, **options) -> bytes:
    """The scene as a JPEG file; `options` are Pillow's."""
    random = scene.random("jpeg")
    settings = {"quality": random.randint(92, 95), "subsampling": random.choice((0, 2))}
    image = options.pop("image", None) or render(scene)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **settings, **options)
    return buffer.getvalue()


# Descriptions. Each consists of countable "<color> <shape>" phrases.


def careful_description(scene: Scene) -> str:
    """Every shape with its place."""
    places = listing([item.placed for item in scene.items])
    shapes = "one shape" if len(scene.items) == 1 else f"{NUMBERS[len(scene.items)]} shapes"
    return f"The image shows {shapes}: {places}."


def some_items(scene: Scene, random: Random) -> list[Item]:
    """About half of the shapes, in reading order."""
    count = max(1, math.floor(len(scene.items) / 2 + random.random() / 2))
    kept = sorted(random.sample(range(len(scene.items)), count))
    return [scene.items[index] for index in kept]


def short_caption(scene: Scene, sample: int) -> str:
    """A caption that omits about half of the shapes."""
    random = scene.random(f"caption/{sample}")
    opening = random.choice(("The picture shows", "You can see"))
    return f"{opening}: {listing([item.placed for item in some_items(scene, random)])}."


def hallucinated_description(scene: Scene, sample: int) -> str:
    """A caption that omits shapes and names one to three that the scene does not have."""
    random = scene.random(f"hallucination/{sample}")
    parts = [item.placed for item in some_items(scene, random)]
    absent = [phrase for phrase in PHRASES if phrase not in scene.phrases]
    added = [with_article(phrase) for phrase in random.sample(absent, random.randint(1, 3))]
    return f"The scene has: {listing(parts)}, joined by {listing(added)}."


# Questions. Each kind returns (question, answer), or None if the scene has no unambiguous one.


def unique(scene: Scene, attribute: str) -> list[Item]:
    counts = Counter(getattr(item, attribute) for item in scene.items)
    return [item for item in scene.items if counts[getattr(item, attribute)] == 1]


def color_question(scene: Scene, random: Random):
    if items := unique(scene, "shape"):
        item = random.choice(items)
        return f"What color is the {item.shape}?", item.color


def shape_question(scene: Scene, random: Random):
    if items := unique(scene, "color"):
        item = random.choice(items)
        return f"What shape is the {item.color} object?", item.shape


def count_question(scene: Scene, random: Random):
    return "How many shapes are there?", str(len(scene.items))


def count_of_question(scene: Scene, random: Random):
    attribute, values = random.choice((("color", tuple(COLORS)), ("shape", SHAPES)))
    present = [getattr(item, attribute) for item in scene.items]
    value = random.choice(present) if random.random() < 0.75 else random.choice(values)
    noun = f"{value} shapes" if attribute == "color" else {"cross": "crosses"}.get(value, value + "s")
    return f"How many {noun} are there?", str(present.count(value))


def existence_question(scene: Scene, random: Random):
    """Half of the phrases exist. Most of the others combine a color and a shape that both occur, but not together."""
    if random.random() < 0.5:
        return f"Is there {with_article(random.choice(scene.phrases))}?", "yes"
    absent = [(color, shape) for color in COLORS for shape in SHAPES if f"{color} {shape}" not in scene.phrases]
    near = [
        (color, shape)
        for color, shape in absent
        if any(item.color == color for item in scene.items) and any(item.shape == shape for item in scene.items)
    ]
    color, shape = random.choice(near if near and random.random() < 0.7 else absent)
    return f"Is there {with_article(f'{color} {shape}')}?", "no"


def position_question(scene: Scene, random: Random):
    axis, before, after = random.choice((("column", "left", "right"), ("row", "above", "below")))
    items = unique(scene, "phrase")
    pairs = [(a, b) for a in items for b in items if getattr(a, axis) != getattr(b, axis)]
    if pairs:
        a, b = random.choice(pairs)
        relation = f"{before} or {after}" + (" of" if axis == "column" else "")
        answer = before if getattr(a, axis) < getattr(b, axis) else after
        return f"Is the {a.phrase} {relation} the {b.phrase}?", answer


KINDS = (color_question, shape_question, count_question, count_of_question, existence_question, position_question)


def questions(scene: Scene, sample: int, count: int = TURNS) -> list[tuple[str, str]]:
    """Up to `count` questions of different kinds about one scene."""
    random = scene.random(f"questions/{sample}")
    drawn = [kind(scene, random) for kind in random.sample(KINDS, len(KINDS))]
    return [pair for pair in drawn if pair][:count]


# The volumes.


def write_unlabelled(root: Path) -> None:
    """JPEGs, a few of them of the kinds found in real folders: progressive, rotated by EXIF, grey."""
    folder = root / "images" / "unlabelled"
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(UNLABELLED):
        scene = make_scene("unlabelled", index)
        options = {}
        if index in (20, 120):
            options["progressive"] = True
        elif index in (60, 150):
            exif = Image.Exif()
            exif[0x0112] = 6
            options = {"exif": exif, "image": render(scene).transpose(Image.Transpose.ROTATE_90)}
        elif index == 90:
            options["image"] = render(scene).convert("L")
        (folder / f"scene-{index:03}.jpg").write_bytes(jpeg(scene, **options))


def write_instructions(root: Path) -> None:
    """Questions about scenes that the base model was trained on, of the kinds it was trained on."""
    folder = root / "instructions" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(INSTRUCTIONS):
        scene = make_scene("train", EASY_SCENES + index)
        name = f"scene-{index:03}.jpg"
        (folder / name).write_bytes(jpeg(scene))
        turns = []
        for question, answer in questions(scene, sample=0, count=2 if index % 4 == 0 else 1):
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        first = turns[0]["value"]
        turns[0]["value"] = f"{first}\n<image>" if index % 6 == 1 else f"<image>\n{first}"
        records.append({"id": f"scene-{index:03}", "image": f"images/{name}", "conversations": turns})
    (root / "instructions" / "instructions.json").write_text(json.dumps(records, indent=1) + "\n")


def write_heldout(root: Path) -> None:
    """Questions about scenes that are in no training data, and the phrases of a correct description."""
    folder = root / "heldout" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    questioned, described = [], []
    for index in range(HELDOUT):
        scene = make_scene("heldout", index)
        identifier, image = f"scene-{index:03}", f"images/scene-{index:03}.jpg"
        (root / "heldout" / image).write_bytes(jpeg(scene))
        described.append({"id": identifier, "image": image, "phrases": scene.phrases})
        for turn, (question, answer) in enumerate(questions(scene, sample=0)):
            questioned.append({"id": f"{identifier}-{turn}", "image": image, "question": question, "answer": answer})
    write_lines(root / "heldout" / "questions.jsonl", questioned)
    write_lines(root / "heldout" / "scenes.jsonl", described)


def write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("volumes", type=Path, help="folder to write images/, instructions/ and heldout/ into")
    root = parser.parse_args().volumes
    write_unlabelled(root)
    write_instructions(root)
    write_heldout(root)


if __name__ == "__main__":
    main()
