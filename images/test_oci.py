"""Tests of the image writer: `python3 images/test_oci.py`."""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).parent
STATIC = b"\x7fELF\x02" + bytes(59)
DOCKERFILE = """\
FROM rust AS build
RUN anything
FROM scratch
ARG VERSION
ARG SOURCE=here
LABEL version="${VERSION}" \\
      source="${SOURCE}"
COPY LICENSE /licenses/LICENSE
COPY --from=build /out/program /program
ENV PATH=/
USER 65532:65532
ENTRYPOINT ["/program"]
"""


class Oci(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "LICENSE").write_text("do as you like")
        (self.folder / "program").write_bytes(STATIC)
        (self.folder / "Dockerfile").write_text(DOCKERFILE)

    def write(self, *more, output="image.tar", epoch="1700000000"):
        command = [sys.executable, HERE / "oci.py", "--dockerfile", self.folder / "Dockerfile", "--context", self.folder]
        command += ["--stage", f"build:/out={self.folder}", "--name", "stic.dev/program:1", "--output", self.folder / output]
        environment = os.environ | {"SOURCE_DATE_EPOCH": epoch}
        ended = subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=False)
        return ended.stderr.strip() if ended.returncode else None

    def archive(self):
        with tarfile.open(self.folder / "image.tar") as archive:
            return {member.name: archive.extractfile(member).read() for member in archive}

    def test_the_same_files_are_the_same_bytes(self):
        self.assertIsNone(self.write("--arg", "VERSION=1"))
        os.utime(self.folder / "program", (1, 1))
        os.chmod(self.folder / "program", 0o700)
        self.assertIsNone(self.write("--arg", "VERSION=1", output="again.tar"))
        self.assertEqual((self.folder / "image.tar").read_bytes(), (self.folder / "again.tar").read_bytes())

    def test_the_image_has_what_the_dockerfile_says(self):
        self.assertIsNone(self.write("--arg", "VERSION=1"))
        files = self.archive()
        for name, data in files.items():
            if name.startswith("blobs/sha256/"):
                self.assertEqual(name.rpartition("/")[2], hashlib.sha256(data).hexdigest())
        entry = json.loads(files["index.json"])["manifests"][0]
        self.assertEqual(entry["annotations"]["io.containerd.image.name"], "stic.dev/program:1")
        manifest = json.loads(files["blobs/sha256/" + entry["digest"][7:]])
        config = json.loads(files["blobs/sha256/" + manifest["config"]["digest"][7:]])
        self.assertEqual(config["created"], "2023-11-14T22:13:20Z")
        self.assertEqual(
            config["config"],
            {
                "Entrypoint": ["/program"],
                "Env": ["PATH=/"],
                "Labels": {"version": "1", "source": "here"},
                "User": "65532:65532",
            },
        )
        layer = gzip.decompress(files["blobs/sha256/" + manifest["layers"][0]["digest"][7:]])
        self.assertEqual(config["rootfs"]["diff_ids"], ["sha256:" + hashlib.sha256(layer).hexdigest()])
        with tarfile.open(fileobj=io.BytesIO(layer)) as contents:
            self.assertEqual(
                [(member.name, member.mode, member.uid, member.mtime) for member in contents],
                [
                    ("licenses", 0o755, 0, 1700000000),
                    ("licenses/LICENSE", 0o644, 0, 1700000000),
                    ("program", 0o755, 0, 1700000000),
                ],
            )

    def test_a_folder_with_the_loader_of_a_program_is_copied(self):
        program = Path(sys.executable).resolve().read_bytes()
        (self.folder / "program").write_bytes(program)
        loader = Path(re.search(rb"/lib[\w/.-]*/ld-linux[\w.-]*", program)[0].decode())
        (self.folder / "loaders").mkdir()
        (self.folder / "loaders" / loader.name).write_bytes(b"the loader")
        copy = f"COPY --from=build /out/loaders/ {loader.parent}/\n"
        (self.folder / "Dockerfile").write_text(DOCKERFILE.replace("ENV PATH", copy + "ENV PATH"))
        self.assertIsNone(self.write("--arg", "VERSION=1"))

    def test_an_image_that_cannot_work_is_refused(self):
        self.assertIn("VERSION has no ARG", self.write().replace("${VERSION}", "VERSION"))
        self.assertIn("over its limit of 10", self.write("--arg", "VERSION=1", "--max-bytes", "10"))
        (self.folder / "Dockerfile").write_text(DOCKERFILE + "RUN true\n")
        self.assertIn("RUN is not supported", self.write("--arg", "VERSION=1"))
        (self.folder / "Dockerfile").write_text(DOCKERFILE.replace("FROM scratch", "FROM debian"))
        self.assertIn("must be FROM scratch", self.write("--arg", "VERSION=1"))
        (self.folder / "Dockerfile").write_text(DOCKERFILE)
        (self.folder / "program").write_bytes(Path(sys.executable).resolve().read_bytes())
        self.assertIn("is not a static binary, and its loader", self.write("--arg", "VERSION=1"))
        (self.folder / "program").unlink()
        self.assertIn("no such file", self.write("--arg", "VERSION=1"))
        self.assertFalse((self.folder / "image.tar").exists())


if __name__ == "__main__":
    unittest.main()
