"""The trainer against TRL, transformers and PEFT on CPUs: `make bench-peers`.

    python trainer/benches/peers/bench.py [--only dpo,sft,generate,decode] [--quick] [--json FILE] [--write-docs]

Both sides have the same model, data and threads. Each measurement is a process of its own, and the sides alternate. Before
anything is timed, loss and gradient norm must agree to 1e-4, and greedy tokens must be equal. docs/benchmarks/trainer.md says
what is measured.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "common"))
import command

if __name__ == "__main__":
    command.main(command.parser(__doc__.splitlines()[0], "docs/benchmarks/trainer.md").parse_args(), shape="small")
