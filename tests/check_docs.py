"""Checks that what the documents name exists: links, anchors, files, items of source files, make targets and flags.

    python3 tests/check_docs.py

Files are checked where they are written in backticks and start with a folder of this repository, such as
`operator/src/status.rs`, `trainer/src/algorithm/losses.rs::dpo` or `tests/e2e/cases/`. Words in capitals, such as NAME, stand
for anything. In code maps every name that ends with .rs must be the name of some file.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("kubectl-stic", "kubectl stic", "stic-trainer")
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"(?:^|[`\s])make ((?:[A-Z_]+=\S+ )*)([a-z][a-z0-9-]*)", re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
PLACEHOLDER = re.compile(r"[A-Z]{3,}|…")


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def expand(path: str) -> list[str]:
    """a/{b,c}/d as a/b/d and a/c/d."""
    found = re.search(r"\{([^{}]+)\}", path)
    if not found:
        return [path]
    return [other for part in found[1].split(",") for other in expand(path[: found.start()] + part + path[found.end() :])]


class Checker:
    def __init__(self) -> None:
        self.files = set(tracked())
        self.folders = {str(parent) for file in self.files for parent in Path(file).parents}
        self.names = {Path(file).name for file in self.files}
        self.top = {file.split("/")[0] for file in self.files if "/" in file}
        makefile = (ROOT / "Makefile").read_text()
        self.targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
        self.flags = {flag for page in tracked("docs/reference/*.md") for flag in FLAG.findall((ROOT / page).read_text())}
        self.problems: list[str] = []

    def exists(self, path: str) -> bool:
        path = path.rstrip("/")
        if "*" in path:
            pattern = re.compile(re.escape(path).replace(r"\*", "[^/]*"))
            return any(pattern.fullmatch(name) for name in self.files | self.folders)
        return path in self.files or path in self.folders or self.is_ignored(path)

    @staticmethod
    def is_ignored(path: str) -> bool:
        """Whether git ignores it, as it does what a command of the document writes."""
        return subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=False).returncode == 0

    def check(self, page: str) -> None:
        text = (ROOT / page).read_text()
        self.check_links(page, text)
        for flags, target in MAKE.findall(text):
            if target not in self.targets and self.is_command(text, f"make {flags}{target}"):
                self.problems.append(f"{page}: there is no make target {target}")
        for code in CODE.findall(BLOCK.sub("", text)):
            self.check_path(page, code)
        for language, block in BLOCK.findall(text):
            if not language:
                for name in re.findall(r"[\w-]+\.rs\b", block):
                    if name not in self.names:
                        self.problems.append(f"{page}: no file is named {name}")
        if self.flags:
            for line in text.splitlines():
                for program in (program for program in PROGRAMS if f"{program} " in line):
                    before, command = line.split(program, 1)
                    # An argument of another program, as in `cargo bench -p stic-trainer`.
                    if re.search(r"(-p|--trainer) (\S*/)?$", before):
                        continue
                    for flag in set(FLAG.findall(command)) - self.flags:
                        self.problems.append(f"{page}: {program} has no flag {flag}")

    @staticmethod
    def is_command(text: str, command: str) -> bool:
        """Whether it is written as code, rather than the English verb."""
        codes = CODE.findall(BLOCK.sub("", text)) + [block for _, block in BLOCK.findall(text)]
        return any(command in code for code in codes)

    def check_links(self, page: str, text: str) -> None:
        for link in LINK.findall(CODE.sub("", BLOCK.sub("", text))):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            if not target.exists():
                self.problems.append(f"{page}: the link {link} leads nowhere")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text()):
                self.problems.append(f"{page}: {target.name} has no heading #{anchor}")

    def check_path(self, page: str, code: str) -> None:
        if PLACEHOLDER.search(code) or " " in code or code.split("/")[0] not in self.top or "/" not in code:
            return
        path, _, item = code.partition("::")
        for one in expand(path):
            if not self.exists(one):
                self.problems.append(f"{page}: {one} does not exist")
            elif item and not re.search(rf"\b{re.escape(item.split('::')[-1])}\b", (ROOT / one).read_text()):
                self.problems.append(f"{page}: {one} does not mention {item}")


def main() -> None:
    checker = Checker()
    pages = tracked("*.md")
    for page in pages:
        checker.check(page)
    for problem in sorted(set(checker.problems)):
        print(f"docs: {problem}", file=sys.stderr)
    if checker.problems:
        sys.exit(f"docs: {len(set(checker.problems))} names in the documents do not exist")
    print(f"docs: every name in {len(pages)} pages exists")


if __name__ == "__main__":
    main()
