"""The trainer against TRL, transformers and PEFT: `make bench-peers`, or with --device cuda on a GPU.

    python trainer/benches/peers/bench.py [--only dpo,sft,generate,decode] [--quick] [--json FILE] [--write-docs]
    python trainer/benches/peers/bench.py --device cuda --size 7b --trainer target/cuda/stic-trainer

Both sides have the same model, data and threads: in f32 on CPUs, in bf16 on a GPU. Each measurement is a process of its own, and
the sides alternate. Before anything is timed, loss and gradient norm must agree to 1e-4 (in bf16 to 3e-2), and greedy tokens must
be equal. docs/benchmarks/trainer.md says what is measured.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "common"))
import command

if __name__ == "__main__":
    parser = command.parser(__doc__.splitlines()[0], "docs/benchmarks/trainer.md")
    parser.add_argument("--size", choices=["tiny", "small", "7b"], default="small", help="of the model")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cpu", help="of both sides")
    options = parser.parse_args()
    if options.write_docs and (options.device, options.size) != ("cpu", "small"):
        parser.error("--write-docs is for the figures of CPUs and of the small model; use --json")
    precision = "Bf16" if options.device == "cuda" else "F32"
    command.main(options, shape=options.size, device=options.device, precision=precision)
