"""The trainer beside TRL, transformers and PEFT on one machine's CPUs: `make bench-peers`.

    python trainer/benches/peers/bench.py [--only dpo,sft,generate,decode] [--quick] [--json FILE] [--write-docs]

Same model, data and threads on both sides, each run a process of its own, the sides in turn. Before anything is timed,
loss and gradient norm agree to 1e-4 and greedy tokens are equal. What is measured: docs/benchmarks/trainer.md.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "common"))
import command

if __name__ == "__main__":
    command.main(command.parser(__doc__.splitlines()[0], "docs/benchmarks/trainer.md").parse_args(), shape="small")
