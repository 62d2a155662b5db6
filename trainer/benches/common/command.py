"""The command line that the benchmarks share."""

import argparse
import shutil
import tempfile
from pathlib import Path

import report
from measures import Bench, Row, Settings, say

ROOT = Path(__file__).parents[3]
MEASURES = {
    "dpo": lambda bench: bench.training("dpo"),
    "sft": lambda bench: bench.training("sft"),
    "generate": lambda bench: bench.generation("PromptsOnly") + bench.generation("Both"),
    "decode": lambda bench: bench.decode(),
}
QUICK = dict(pairs=2, batch=2, images=2, tokens=32, decoded=64, repeats=1)


def parser(description: str, page: str) -> argparse.ArgumentParser:
    """Options of every benchmark; `page` is where --write-docs puts the table."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--trainer", type=Path, default=ROOT / "target/release/stic-trainer", help="the binary")
    made.add_argument("--work", type=Path, help="a folder for models, images and outputs; a temporary one by default")
    made.add_argument("--only", default=",".join(MEASURES), help=f"some of {','.join(MEASURES)}")
    made.add_argument("--quick", action="store_true", help="so little that only the way is tried, not the figures")
    made.add_argument("--threads", type=int, default=2, help="CPUs that either side may use")
    made.add_argument("--json", type=Path, help="write the figures there too")
    made.add_argument("--write-docs", action="store_true", help=f"put the table into {page}")
    for name in ["pairs", "batch", "images", "tokens", "decoded", "at-once", "repeats"]:
        made.add_argument(f"--{name}", type=int, help="another number of them than the default")
    made.set_defaults(page=ROOT / page)
    return made


def main(options: argparse.Namespace, **fixed: object) -> None:
    """Measures and prints the table. `fixed` are settings that the benchmark decides."""
    names = options.only.split(",")
    if unknown := set(names) - set(MEASURES):
        raise SystemExit(f"--only {','.join(sorted(unknown))}: no such measure; there are {','.join(MEASURES)}")
    if not options.trainer.is_file():
        raise SystemExit(f"{options.trainer}: no such file; build the trainer, or name it with --trainer")
    counts = ["threads", "pairs", "batch", "images", "tokens", "decoded", "at_once", "repeats"]
    given = {name: getattr(options, name) for name in counts if getattr(options, name) is not None}
    work = options.work or Path(tempfile.mkdtemp(prefix="stic-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        chosen = fixed | (QUICK if options.quick else {}) | given
        settings = Settings(options.trainer.resolve(), work.resolve(), **chosen)
        bench = Bench(settings)
        rows: list[Row] = [row for name in names for row in MEASURES[name](bench)]
        known = report.facts(settings)
    finally:
        if options.work is None:
            shutil.rmtree(work)
    table = report.markdown(rows, known)
    print(table)
    if options.json:
        report.write_json(options.json, rows, known)
    if options.write_docs:
        report.write_docs(options.page, table)
        say(f"wrote {options.page}")
