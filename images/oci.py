#!/usr/bin/env python3
"""Writes the last stage of a Dockerfile as an OCI archive, with no daemon and no dependency.

The Dockerfile remains the only description of the image. The last stage must be FROM scratch and may use ARG, COPY, ENV,
LABEL, USER, WORKDIR, ENTRYPOINT and CMD; anything else is an error. Builds are reproducible: entries are sorted, belong
to root, and have the time SOURCE_DATE_EPOCH (0 if unset).

The archive is an OCI layout that also has the index of `docker save`, so containerd, podman and docker all load it.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import re
import shlex
import struct
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PT_INTERP = 3


class Refused(Exception):
    """An error that the user can fix."""


def main():
    arguments = parse_arguments()
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    stage = last_stage(arguments.dockerfile, dict(pair(text) for text in arguments.arg))
    files = {}
    for stage_name, sources, target in stage["copies"]:
        for source in sources:
            path = find(source, stage_name, arguments)
            # As Docker does: of a folder, what is in it.
            found = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
            if path.is_dir() and not found:
                raise Refused(f"{path}: is empty; the image needs what should be in it")
            for name, file in (found or {path.name: path}).items():
                name = target + name if target.endswith("/") else target
                files[name.lstrip("/")] = file.read_bytes()
    for name, data in files.items():
        require_loader(name, data, files)
    size = sum(map(len, files.values()))
    if arguments.max_bytes and size > arguments.max_bytes:
        raise Refused(f"{arguments.name} has {size} bytes of files, over its limit of {arguments.max_bytes}: make the programs smaller")
    archive, digest = image(files, stage["config"], arguments.name, epoch)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    partial = arguments.output.with_name(arguments.output.name + ".partial")
    partial.write_bytes(archive)
    partial.replace(arguments.output)
    print(f"{arguments.output}: {arguments.name}@{digest}, {size / 1e6:.1f} MB, {len(archive) / 1e6:.1f} MB compressed")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dockerfile", type=Path, required=True)
    parser.add_argument("--context", type=Path, default=Path("."), help="folder that COPY reads from")
    parser.add_argument(
        "--stage",
        action="append",
        default=[],
        metavar="NAME:PATH=DIR",
        help="take what COPY --from=NAME reads below PATH from the folder DIR",
    )
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="value of an ARG")
    parser.add_argument("--name", required=True, help="name and tag, as in a pod")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--max-bytes", type=int, help="fail if the files are larger than this, uncompressed")
    return parser.parse_args()


def pair(text):
    name, separator, value = text.partition("=")
    if not separator:
        raise Refused(f"{text}: write NAME=VALUE")
    return name, value


# --- the Dockerfile ----------------------------------------------------------------------------------------------


def instructions(path):
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text()))
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        yield word.upper(), rest.strip()


def last_stage(path, given):
    stages = []
    for word, rest in instructions(path):
        if word == "FROM":
            stages.append((rest, []))
        elif stages:
            stages[-1][1].append((word, rest))
    if not stages or stages[-1][0] != "scratch":
        raise Refused(f"{path}: the last stage must be FROM scratch")
    known = {}
    config = {"Env": [], "Labels": {}}
    copies = []

    def fill(value):
        def replace(match):
            if match[1] not in known:
                raise Refused(f"{path}: ${{{match[1]}}} has no ARG with a value: give --arg {match[1]}=VALUE")
            return known[match[1]]

        return re.sub(r"\$\{(\w+)\}", replace, value)

    for word, rest in stages[-1][1]:
        if word == "ARG":
            name, _, default = rest.partition("=")
            value = given.get(name, default)
            if value:
                known[name] = value
        elif word == "LABEL":
            config["Labels"].update(pair(fill(label)) for label in shlex.split(rest))
        elif word == "ENV":
            config["Env"] += [fill(variable) for variable in shlex.split(rest)]
        elif word == "USER":
            config["User"] = fill(rest)
        elif word == "WORKDIR":
            config["WorkingDir"] = fill(rest)
        elif word in ("ENTRYPOINT", "CMD"):
            config[word.capitalize()] = json.loads(rest)
        elif word == "COPY":
            words = shlex.split(fill(rest))
            stage = None
            while words[0].startswith("--"):
                option, value = pair(words.pop(0))
                if option != "--from":
                    raise Refused(f"{path}: COPY {option} is not supported")
                stage = value
            copies.append((stage, words[:-1], words[-1]))
        else:
            raise Refused(f"{path}: {word} is not supported in a stage from scratch")
    return {"config": config, "copies": copies}


def find(source, stage, arguments):
    if stage is None:
        path = arguments.context / source
    else:
        for mapping in arguments.stage:
            prefix, folder = pair(mapping)
            if f"{stage}:{source}".startswith(prefix.rstrip("/") + "/"):
                path = Path(folder) / f"{stage}:{source}"[len(prefix.rstrip("/")) + 1 :]
                break
        else:
            raise Refused(f"COPY --from={stage} {source}: give --stage {stage}:{Path(source).parent}=DIR")
    if not path.exists():
        raise Refused(f"{path}: no such file; the image needs it, so build it first")
    return path


def require_loader(name, data, files):
    """Without its dynamic loader in the image, a program would fail with 'no such file or directory'."""
    if data[:5] != b"\x7fELF\x02":
        return
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for index in range(count):
        header = offset + index * size
        if struct.unpack_from("<I", data, header) != (PT_INTERP,):
            continue
        start, _, _, length = struct.unpack_from("<4Q", data, header + 8)
        loader = data[start : start + length].rstrip(b"\0").decode()
        if loader.lstrip("/") not in files:
            raise Refused(
                f"{name} is not a static binary, and its loader {loader} is not in the image: build it with "
                "RUSTFLAGS='-C target-feature=+crt-static', or copy the loader"
            )


# --- the archive -------------------------------------------------------------------------------------------------


def layer(files, epoch):
    folders = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(folders | set(files)):
            entry = tarfile.TarInfo(name)
            entry.mtime = epoch
            if name in files:
                entry.size = len(files[name])
                entry.mode = 0o755 if files[name][:4] == b"\x7fELF" else 0o644
                archive.addfile(entry, io.BytesIO(files[name]))
            else:
                entry.type = tarfile.DIRTYPE
                entry.mode = 0o755
                archive.addfile(entry)
    return stream.getvalue()


def image(files, config, name, epoch):
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise Refused(f"the architecture {machine} is not supported: build on {' or '.join(ARCHITECTURES)}")
    created = datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    plain = layer(files, epoch)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=packed, mtime=0) as stream:
        stream.write(plain)
    blobs = {}

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return digest

    def described(digest, kind):
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(blobs[digest])}

    layer_digest = blob(packed.getvalue())
    config_digest = blob(
        encode(
            {
                "created": created,
                "architecture": ARCHITECTURES[machine],
                "os": "linux",
                "config": {key: value for key, value in config.items() if value},
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(plain).hexdigest()]},
                "history": [{"created": created, "created_by": "images/oci.py"}],
            }
        )
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described(config_digest, "config.v1+json"),
        "layers": [described(layer_digest, "layer.v1.tar+gzip")],
    }
    if config["Labels"]:
        manifest["annotations"] = config["Labels"]
    manifest_digest = blob(encode(manifest))
    entry = described(manifest_digest, "manifest.v1+json") | {
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    }
    contents = {
        "oci-layout": encode({"imageLayoutVersion": "1.0.0"}),
        "index.json": encode({"schemaVersion": 2, "manifests": [entry]}),
        "manifest.json": encode(
            [
                {
                    "Config": f"blobs/sha256/{config_digest}",
                    "RepoTags": [name],
                    "Layers": [f"blobs/sha256/{layer_digest}"],
                }
            ]
        ),
    } | {f"blobs/sha256/{digest}": data for digest, data in sorted(blobs.items())}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, data in contents.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            member.mtime = epoch
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue(), f"sha256:{manifest_digest}"


def encode(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


if __name__ == "__main__":
    try:
        main()
    except Refused as refused:
        sys.exit(f"oci.py: {refused}")
