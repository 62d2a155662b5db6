"""Writes the results as Markdown, as JSON, and into a page of the documentation."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from process import cpu_model

if TYPE_CHECKING:  # they import torch
    from measures import Row, Settings

BEGIN, END = "<!-- results: written by --write-docs -->", "<!-- end of results -->"


def facts(settings: Settings) -> dict[str, str]:
    """What the results depend on, apart from the code."""
    peers = ", ".join(f"{name} {version(name)}" for name in ["torch", "transformers", "trl", "peft"])
    trainer = subprocess.run([settings.trainer, "--version"], capture_output=True, text=True, check=True)
    found = {"date": time.strftime("%Y-%m-%d"), "processor": cpu_model(), "threads": str(settings.threads)}
    if settings.device == "cuda":
        import torch

        found["GPU"] = torch.cuda.get_device_name()
    return found | {
        "versions": f"{trainer.stdout.strip()}, {peers}",
        "workload": f"model {settings.shape}, {settings.precision}; {settings.pairs} pairs in batches of "
        f"{settings.batch}; {settings.images} images, {settings.tokens} tokens a response; medians of "
        f"{settings.repeats}",
    }


def markdown(rows: list[Row], known: dict[str, str]) -> str:
    """The facts as a list, the rows as a table."""
    lines = [f"- {name}: {value}" for name, value in known.items()]
    lines += ["", "| measure | peer | ours | theirs | ratio | goal | other processes' CPU | stolen CPU |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        figures = f"{row.ours:.4g} | {row.theirs:.4g} | {row.ratio:.2f} | {row.goal}{_verdict(row)}"
        stolen = ", ".join(f"{share:.0%}" for share in row.stolen_share)
        lines.append(f"| {row.measure} | {row.peer} | {figures} | {row.others_share:.0%} | {stolen} |")
    return "\n".join(lines) + "\n"


def _verdict(row: Row) -> str:
    if not row.goal:
        return ""
    relation, bound = row.goal.split()
    met = row.ratio >= float(bound) if relation == ">=" else row.ratio <= float(bound)
    return ": met" if met else ": missed"


def write_docs(page: Path, text: str) -> None:
    """Replaces the results in a page."""
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def write_json(file: Path, rows: list[Row], known: dict[str, str]) -> None:
    """The content of the table, unrounded."""
    file.write_text(json.dumps({"facts": known, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
