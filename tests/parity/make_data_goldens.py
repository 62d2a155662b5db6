"""Writes the expected values of the trainer's preprocessing tests: `trainer/tests/data/`.

    python tests/parity/make_data_goldens.py trainer/tests/data

Pinned: Python 3.11, Pillow 12.3.0, numpy 2.4.6, transformers 5.23.0, tokenizers 0.23.3, sentencepiece 0.2.3, torch 2.15.0
(which transformers imports), jinja2 3.1.6. torchvision is not needed: the relevant lines of its PIL backend are copied here.
Pillow 13 resizes differently and turns 16-bit grey white.

Large images are not stored: `noise` makes the same bytes here and in the Rust tests, and the result is compared by SHA-256.
Run this again only to add cases; existing values must not change.
"""

import hashlib, io, json, math, struct, sys, tempfile
from pathlib import Path

import numpy as np
import sentencepiece as spm
from PIL import Image, ImageEnhance, ImageOps
from transformers import LlavaNextProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = Path(sys.argv[1])


def sha(data):
    return hashlib.sha256(data).hexdigest()


def noise(width, height, seed=0):
    """RGB noise: SHA-256 of (seed, n), n = 0, 1, ..."""
    need = width * height * 3
    data = b"".join(hashlib.sha256(struct.pack("<II", seed, n)).digest() for n in range(-(-need // 32)))
    return Image.frombytes("RGB", (width, height), data[:need])


def smooth(width, height):
    """A picture rather than noise, which JPEG handles well."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    rgb = np.stack([255 * x, 255 * y, 127.5 + 127.5 * np.sin(6 * (x + y))], -1)
    rgb[height // 3: height // 2, width // 4: width // 2] = (250, 30, 20)
    return Image.fromarray(rgb.astype(np.uint8))


def write_json(name, value):
    (OUT / name).write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


# --- decoding -------------------------------------------------------------------------------------------------------

def decoding():
    """Every file format: lossless ones by hash, lossy ones with a PNG of what Pillow decodes."""
    folder = OUT / "images"
    folder.mkdir(parents=True, exist_ok=True)
    base = smooth(31, 57)
    grey = base.convert("L")
    alpha = Image.fromarray((np.arange(31 * 57).reshape(57, 31) % 256).astype(np.uint8))
    rgba = base.copy(); rgba.putalpha(alpha)
    la = grey.copy(); la.putalpha(alpha)
    palette = base.quantize(16)
    files = {}

    def save(name, image, **options):
        image.save(folder / name, **options)
        files[name] = None

    save("rgb.png", base)
    save("rgba.png", rgba)
    save("grey.png", grey)
    save("grey-alpha.png", la)
    save("palette.png", palette)
    save("palette-trns.png", palette, transparency=bytes(range(0, 256, 16)))
    save("palette-2bit.png", base.quantize(4), bits=2)
    save("one-bit.png", grey.point(lambda v: 255 * (v > 127)).convert("1"))
    save("rgb-trns.png", base, transparency=(0, 0, 127))
    deep = (np.arange(31 * 57, dtype=np.uint32).reshape(57, 31) * 37 % 65536).astype(np.uint16)
    save("grey-16.png", Image.fromarray(deep))
    png16(folder / "rgb-16.png", np.stack([deep, deep[::-1], deep[:, ::-1]], -1), 2); files["rgb-16.png"] = None
    png16(folder / "grey-alpha-16.png", np.stack([deep, deep[::-1]], -1), 4); files["grey-alpha-16.png"] = None
    save("rgb.bmp", base)
    save("palette.bmp", palette)
    save("one-bit.bmp", grey.convert("1"))
    save("rgba.bmp", rgba)
    save("palette.gif", palette)
    save("transparent.gif", palette, transparency=3)
    save("frames.gif", palette, save_all=True, append_images=[palette.transpose(Image.ROTATE_180)])
    save("interlaced.gif", palette, interlace=True)
    save("rgb.tif", base)
    save("lzw.tif", base, compression="tiff_lzw")
    save("deflate.tif", grey, compression="tiff_adobe_deflate")
    save("rgba.tif", rgba)
    save("lossless.webp", base, lossless=True)
    save("lossless-alpha.webp", rgba, lossless=True, exact=True)
    save("lossy.webp", base, quality=80)
    save("lossy-alpha.webp", rgba, quality=80)
    save("baseline-444.jpg", base, quality=90, subsampling=0)
    save("baseline-420.jpg", base, quality=75)
    save("progressive.jpg", base, quality=75, progressive=True)
    save("grey.jpg", grey, quality=80)
    save("cmyk.jpg", base.convert("CMYK"), quality=90)
    for value in range(1, 9):
        exif = Image.Exif(); exif[0x0112] = value
        save(f"orientation-{value}.png", base, exif=exif)
        if value in (3, 6):
            save(f"orientation-{value}.jpg", base, quality=90, subsampling=0, exif=exif)
            save(f"orientation-{value}.webp", base, lossless=True, exif=exif)
            save(f"orientation-{value}.tif", base, tiffinfo={0x0112: value})
    (folder / "a-png-by-content.jpg").write_bytes((folder / "rgb.png").read_bytes()); files["a-png-by-content.jpg"] = None

    lossy = (".jpg", "lossy.webp", "lossy-alpha.webp")
    for name in files:
        path = folder / name
        if name in ("grey-16.png", "grey-alpha-16.png"):  # ours keeps the high byte, unlike Pillow
            rgb = Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
        else:
            rgb = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        files[name] = {"size": rgb.size, "sha256": sha(rgb.tobytes())}
        if name.endswith(lossy) and name != "a-png-by-content.jpg":
            files[name]["expected"] = name + ".expected.png"
            rgb.save(folder / files[name]["expected"], optimize=True)
    write_json("images.json", files)


def png16(path, samples, color_type):
    """Writes a 16-bit PNG, which Pillow cannot."""
    import zlib
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


# --- resampling -----------------------------------------------------------------------------------------------------

def resampling():
    sizes = [((31, 57), (20, 36)), ((57, 31), (336, 336)), ((640, 480), (336, 336)), ((336, 336), (336, 252)),
             ((100, 7), (7, 100)), ((1, 1), (5, 3)), ((5, 3), (1, 1)), ((1, 300), (336, 1)), ((333, 500), (448, 672)),
             ((64, 64), (64, 20)), ((64, 64), (20, 64)), ((17, 13), (17, 13)), ((1000, 3), (10, 2)), ((3, 2), (97, 89))]
    rows = []
    for seed, (source, target) in enumerate(sizes):
        for value in range(6):
            out = noise(*source, seed).resize(target, resample=Image.Resampling(value))
            rows.append([source, seed, target, value, sha(out.tobytes())])
    write_json("resample.json", rows)


# --- anyres ---------------------------------------------------------------------------------------------------------

REAL = dict(crop=336, side=24, pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]])
TINY = dict(crop=56, side=4, pinpoints=[[56, 112], [112, 56], [112, 112], [168, 56], [56, 168]])


def hf_tokens(geometry):
    """The token count of transformers' own processor."""
    processor = LlavaNextProcessor.__new__(LlavaNextProcessor)
    processor.patch_size = geometry["crop"] // geometry["side"]
    processor.num_additional_image_tokens = 0
    processor.image_processor = type("P", (), {"image_grid_pinpoints": geometry["pinpoints"]})
    crop = geometry["crop"]
    return lambda h, w: processor._get_number_of_features(h, w, crop, crop)


def anyres():
    from transformers.image_processing_utils import select_best_resolution
    out = {}
    for name, geometry in (("real", REAL), ("tiny", TINY)):
        tokens = hf_tokens(geometry)
        sizes = [(480, 640), (640, 480), (427, 640), (640, 427), (640, 640), (336, 336), (500, 333), (333, 500), (1000, 300),
                 (300, 1000), (88, 99), (100, 28), (28, 50), (90, 150), (1, 1), (1, 5000), (5000, 1), (2, 3), (1080, 1920),
                 (56, 56), (57, 31), (31, 57), (3000, 4000), (10, 337), (337, 10)]
        rows = [[h, w, *select_best_resolution((h, w), geometry["pinpoints"]), tokens(h, w)] for h, w in sizes]
        sweep = b"".join(struct.pack("<I", tokens(h, w)) for h in range(1, 700, 3) for w in range(1, 700))
        out[name] = dict(**geometry, rows=rows, sweep=sha(sweep))
    write_json("anyres.json", out)


# --- processors -----------------------------------------------------------------------------------------------------

def processors():
    pin = TINY["pinpoints"]
    small = dict(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    cases = [
        ("LlavaNext", dict(**small, image_grid_pinpoints=pin)),
        ("LlavaNext", dict(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})),
        ("LlavaNext", dict(size={"height": 56, "width": 56}, crop_size=56, image_grid_pinpoints=pin, do_resize=False)),
        ("LlavaNext", dict(size=60, crop_size=56, image_grid_pinpoints=pin)),
        ("LlavaNext", dict(**small, image_grid_pinpoints=pin, do_normalize=False)),
        ("LlavaNext", dict(**small, image_grid_pinpoints=pin, do_rescale=False, resample=2)),
        ("LlavaNext", dict(**small, image_grid_pinpoints=pin, do_rescale=False, do_normalize=False, resample=1)),
        ("Llava", dict(**small)),
        ("Llava", dict(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})),
        ("Llava", dict(size={"shortest_edge": 40}, crop_size={"height": 57, "width": 51})),
        ("Llava", dict(size={"height": 56, "width": 70}, crop_size=56, resample=0, rescale_factor=0.01)),
        ("Llava", dict(**small, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.25, 0.125])),
        ("Llava", dict(do_resize=False, crop_size={"height": 56, "width": 56})),
        ("Llava", dict(**small, do_pad=True, image_processor_type="LlavaImageProcessor")),
        ("Llava", dict(**small, do_pad=True, image_processor_type="CLIPImageProcessor")),
        ("Llava", {}),
    ]
    sizes = [(31, 57), (150, 90), (100, 28), (56, 56), (300, 41), (1, 9)]
    rows = []
    for family, config in cases:
        kind = config.get("image_processor_type", "CLIPImageProcessor")
        cls = {"LlavaNext": LlavaNextImageProcessorPil}.get(
            family, LlavaImageProcessorPil if kind.startswith("Llava") else CLIPImageProcessorPil)
        processor = cls(**{k: v for k, v in config.items() if k != "image_processor_type"})
        results = []
        for seed, size in enumerate(sizes):
            values = processor(noise(*size, seed), return_tensors="np")["pixel_values"]
            values = values if values.ndim == 5 else values[:, None]
            values = np.ascontiguousarray(values[0], dtype=np.float32)
            results.append([size, seed, list(values.shape), sha(values.astype("<f4").tobytes())])
        rows.append(dict(family=family, config=config, results=results))
    write_json("processors.json", rows)


# --- corruption -----------------------------------------------------------------------------------------------------

def corruption():
    def brightness(image, factor):
        return ImageEnhance.Brightness(image).enhance(factor)

    def hue(image, factor):  # torchvision/transforms/_functional_pil.py: adjust_hue
        h, s, v = image.convert("HSV").split()
        np_h = np.array(h, dtype=np.uint8)
        np_h += np.array(factor * 255).astype(np.int32).astype(np.uint8)
        return Image.merge("HSV", (Image.fromarray(np_h), s, v)).convert("RGB")

    rows = []
    for seed, (b, h, first) in enumerate([(0.5, -0.3, True), (1.5, 0.3, False), (0.731, 0.0123, True), (1.0, -0.004, False),
                                          (1.2345, 0.2999, True), (0.0, 0.1, True), (1.3, None, True), (0.9, 0.5, False)]):
        image = noise(31, 57, seed)
        steps = [lambda i: brightness(i, b), lambda i: hue(i, h) if h is not None else i]
        for step in steps if first else steps[::-1]:
            image = step(image)
        rows.append(dict(seed=seed, brightness=b, hue=h, brightnessFirst=first, sha256=sha(image.tobytes())))
    colors = np.arange(1 << 24, dtype=np.uint32).reshape(4096, 4096)
    every = Image.fromarray(np.stack([colors >> 16, colors >> 8 & 255, colors & 255], -1).astype(np.uint8))
    low = []
    for seed, (w, h) in enumerate([(640, 480), (31, 57), (333, 500), (20, 20), (9, 200), (100, 99)]):
        short, long = sorted((w, h))
        new = (20, int(20 * long / short)) if w <= h else (int(20 * long / short), 20)  # _compute_resized_output_size
        out = noise(w, h, seed).resize(new, Image.Resampling.BILINEAR)
        low.append([[w, h], seed, list(new), sha(out.tobytes())])
    write_json("corruption.json", dict(jitter=rows, every_color_hue_0_17=sha(hue(every, 0.17).tobytes()), low_resolution=low))


# --- sentencepiece --------------------------------------------------------------------------------------------------

CORPUS = """A chat between a curious user and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the user's questions.
USER: Describe the image. ASSISTANT: A cat sits on a mat, and two dogs run in the park.
Please provide a detailed description of the image, focusing on the following.
Identify the main subjects (people, animals, objects) in the image and describe what they are doing.
Ein Bild zeigt vier Häuser, drei Bäume und einen See. Größe: 12,5 m².
aaa aaaa ababa bababab  double  spaces   triple
""".splitlines() * 3

STRINGS = ["Hello", " Hello", "Describe the image.", "  two  spaces  ", "tab\there", "line\nbreak\n\nmore\n", "", " ", "   ",
           "ünïcödé Größe m²", "日本語 テスト", "emoji 👩‍👩‍👧 🎉!", "1234567890", "a" * 40, "ababababa bab", "\u2581already", "x\u00a0y",
           "USER: <image>\nDescribe. ASSISTANT:", "control \x00\x07 chars", "ﬁ ligature ①", "the user's \"questions\" (are) {odd}",
           "zażółć gęślą jaźń", "مرحبا بالعالم", "naïve\r\ncafé", "A\u0301 combining"]


def sentencepiece():
    out = {}
    for kind, size in (("bpe", 420), ("unigram", 370)):
        folder = OUT / f"sentencepiece-{kind}"
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            spm.SentencePieceTrainer.train(
                sentence_iterator=iter(CORPUS), model_prefix=f"{scratch}/m", vocab_size=size, model_type=kind,
                byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                character_coverage=1.0, split_digits=True, allow_whitespace_only_pieces=True, minloglevel=2)
            (folder / "tokenizer.model").write_bytes(Path(f"{scratch}/m.model").read_bytes())
        processor = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        out[kind] = dict(vocab=processor.vocab_size(), rows=[[s, processor.encode(s), processor.decode(processor.encode(s))]
                                                            for s in STRINGS])
    write_json("sentencepiece.json", out)


# --- tokenizer.json and templates -----------------------------------------------------------------------------------

TINY_TEMPLATE = "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
TEMPLATES = {
    "tiny": TINY_TEMPLATE,
    # llava-hf/llava-v1.6-mistral-7b-hf, with its literal <\\s>
    "hub-mistral": "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}{% elif message['role'] == 'user' %}{{ '[INST] ' }}{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}{{' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '<\\s> '}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    # llava-hf/llava-1.5-7b-hf, with its generation tags
    "hub-vicuna": "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    "plain-text": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}\n  {%- if loop.index0 > 4 %}{% break %}{% endif %}[INST] {{ m['content'].strip() }} [/INST]{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}",
    "blocks": "{%- for m in messages %}\n    {% if m.role == 'user' %}\nU:{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}\n    {%- else %}\nA:{% generation %}{{ m.content[0].text }}{% endgeneration %}{{ eos_token }}\n    {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\nA:\n{%- endif %}",
}
CONVERSATIONS = [
    [("user", "What is it?", True)],
    [("user", "What is it?", False)],
    [("user", "What is it?", True), ("assistant", "A bus.", False), ("user", "Which colour?", False)],
    [("user", " spaced ", True), ("assistant", "A.", False), ("user", "B", False), ("assistant", "C", False), ("user", "D", False)],
]


def messages(conversation, parts):
    out = []
    for role, text, image in conversation:
        if parts:
            content = ([{"type": "image"}] if image else []) + [{"type": "text", "text": text}]
        else:
            content = ("<image>\n" if image else "") + text
        out.append({"role": role, "content": content})
    return out


def tiny_tokenizer():
    t = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False); t.decoder = decoders.ByteLevel()
    t.train_from_iterator(["USER: Describe the image. ASSISTANT: a cat sits on a mat </s>"],
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>", "<image>", "<pad>"],
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=t, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                                   extra_special_tokens={"image_token": "<image>"})


def templates():
    folder = OUT / "tiny-tokenizer"
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    rows = []
    for name, template in TEMPLATES.items():
        for conversation in CONVERSATIONS:
            text = tokenizer.apply_chat_template(messages(conversation, name != "plain-text"), chat_template=template,
                                                 tokenize=False, add_generation_prompt=True)
            rows.append(dict(template=name, conversation=conversation, text=text,
                             ids=tokenizer(text, add_special_tokens=False)["input_ids"]))
    texts = STRINGS + ["USER: <image>\nDescribe the image. ASSISTANT:", "a cat</s> sits <pad>"]
    encoded = [[s, tokenizer(s, add_special_tokens=False)["input_ids"]] for s in texts]
    decoded = [[ids, tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)] for _, ids in encoded]
    write_json("templates.json", dict(templates=TEMPLATES, rows=rows, encoded=encoded, decoded=decoded))


for make in (decoding, resampling, anyres, processors, corruption, sentencepiece, templates):
    make()
    print(make.__name__)
