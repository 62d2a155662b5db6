"""The command line of the benchmarks."""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import report
from measures import Bench, Row, Settings, log

ROOT = Path(__file__).parents[3]
MEASURES = {
    "dpo": lambda bench: bench.training("dpo"),
    "sft": lambda bench: bench.training("sft"),
    "generate": lambda bench: bench.generation("PromptsOnly") + bench.generation("Both"),
    "decode": lambda bench: bench.decode(),
}
QUICK = dict(pairs=2, batch=2, images=2, tokens=32, decoded=64, repeats=1)


def parser(description: str, page: str) -> argparse.ArgumentParser:
    """The options of every benchmark. --write-docs writes the table into `page`."""
    options = argparse.ArgumentParser(description=description)
    built = os.environ.get("STIC_BIN")
    options.add_argument("--trainer", type=Path, default=built and Path(built, "stic-trainer"), required=not built,
                         help="the binary; by default the one in the folder STIC_BIN, if that is set")
    options.add_argument("--work", type=Path, help="a folder for models, images and outputs; a temporary one by default")
    options.add_argument("--only", default=",".join(MEASURES), help=f"some of {','.join(MEASURES)}")
    options.add_argument("--quick", action="store_true", help="a tiny workload that only checks the benchmark itself")
    options.add_argument("--threads", type=int, default=2, help="CPUs of each side")
    options.add_argument("--json", type=Path, help="also write the figures to this file")
    options.add_argument("--write-docs", action="store_true", help=f"write the table into {page}")
    for name in ["pairs", "batch", "images", "tokens", "decoded", "responses-per-batch", "repeats"]:
        options.add_argument(f"--{name}", type=int, help=f"the number of {name}, if not the default")
    options.set_defaults(page=ROOT / page)
    return options


def main(options: argparse.Namespace, **fixed: object) -> None:
    """Measures and prints the table. `fixed` are the settings that have no option."""
    names = options.only.split(",")
    if unknown := set(names) - set(MEASURES):
        raise SystemExit(f"--only {','.join(sorted(unknown))}: no such measure; choose from {','.join(MEASURES)}")
    if not options.trainer.is_file():
        raise SystemExit(f"{options.trainer}: no such file; build the trainer, or pass its path with --trainer")
    counts = ["threads", "pairs", "batch", "images", "tokens", "decoded", "responses_per_batch", "repeats"]
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
        log(f"wrote {options.page}")
