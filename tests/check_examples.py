"""Checks what kustomize has built from the rows of examples/paper.

    python3 tests/check_examples.py FOLDER     FOLDER/ROW.json has the objects of a row

References between runs must survive every change of name: kustomize silently keeps the old name where it does not know a
reference, and may choose the run of another variant where it does.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

REFERENCES = {"stageOneRunRef": "StageOneRun", "stageTwoRunRef": "StageTwoRun"}
Run = tuple[str, str]


def objects(text: str) -> Iterator[dict]:
    """The objects of a stream, as kubectl prints several."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        found, at = decoder.raw_decode(text, at)
        yield from found["items"] if found["kind"] == "List" else [found]


def reference(holder: dict) -> Run | None:
    """The run that a subject or an initFrom names."""
    return next(((kind, holder[field]["name"]) for field, kind in REFERENCES.items() if field in holder), None)


def text_of(run: Run) -> str:
    return "/".join(run)


class Row:
    def __init__(self, file: Path) -> None:
        self.name = file.stem
        self.specs = {(it["kind"], it["metadata"]["name"]): it["spec"] for it in objects(file.read_text())}

    def model(self, holder: dict) -> str | None:
        """The base model of a subject or of what a run starts from."""
        upstream = reference(holder)
        if upstream is None:
            return (holder.get("baseModel") or holder.get("model"))["volume"]["path"]
        spec = self.specs.get(upstream, {})
        return self.model(spec if upstream[0] == "StageOneRun" else spec["initFrom"]) if spec else None

    def problems(self) -> Iterator[str]:
        if not any(kind == "EvaluationRun" for kind, _ in self.specs):
            yield "it has no EvaluationRun"
        for run, spec in self.specs.items():
            holders = [spec["initFrom"]] if "initFrom" in spec else spec.get("subjects", [])
            upstreams = [upstream for upstream in map(reference, holders) if upstream]
            for upstream in upstreams:
                if upstream not in self.specs:
                    yield f"{text_of(run)} refers to {text_of(upstream)}, which is not in it"
                # A variant has one name for all its runs. An evaluation of several variants has another name.
                own = (upstream[0], run[1])
                if own in self.specs and upstream != own:
                    yield f"{text_of(run)} refers to {text_of(upstream)} instead of {text_of(own)}"
            for upstream in {it for it in upstreams if upstreams.count(it) > 1}:
                yield f"{text_of(run)} refers to {text_of(upstream)} twice"
            if run[0] == "EvaluationRun" and len(models := {self.model(subject) for subject in holders}) > 1:
                yield f"{text_of(run)} compares different base models: {models}"


def main() -> None:
    rows = [Row(file) for file in sorted(Path(sys.argv[1]).glob("*.json"))]
    problems = [f"{row.name}: {problem}" for row in rows for problem in row.problems()]
    outputs = {json.dumps(spec["output"]) for row in rows for spec in row.specs.values()}
    if len(outputs) != 1:
        problems.append(f"the rows must share one output, so that nothing is made twice, but have {outputs}")
    # A row can be applied after another one that has some of its runs, because they are the same.
    seen: dict[Run, tuple[str, dict]] = {}
    for row in rows:
        for run, spec in row.specs.items():
            # A judge is a choice of the user's, and changes the evaluations that exist without it.
            key = (run[0], run[1] + ("+judge" if "judge" in spec else ""))
            first, other = seen.setdefault(key, (row.name, spec))
            if spec != other:
                problems.append(f"{row.name}: {text_of(run)} differs from that of {first}")
    for problem in problems:
        print(f"examples: {problem}", file=sys.stderr)
    sys.exit(1 if problems or not rows else 0)


if __name__ == "__main__":
    main()
