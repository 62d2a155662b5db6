"""A random LLaVA-1.6 of 7B on a GPU, against transformers, PEFT and TRL.

    python trainer/benches/gpu/bench.py --trainer target/cuda/stic-trainer [--json FILE] [--write-docs]
    python trainer/benches/gpu/bench.py --size small --device cpu --quick     runs without a GPU

In bf16 on a GPU, in f32 on a CPU. Needs trainer/benches/peers/requirements.txt. docs/benchmarks/trainer-gpu.md says what is
measured.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "common"))
import command

if __name__ == "__main__":
    parser = command.parser(__doc__.splitlines()[0], "docs/benchmarks/trainer-gpu.md")
    parser.add_argument("--size", choices=["tiny", "small", "7b"], default="7b", help="of the model")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="for both sides")
    options = parser.parse_args()
    precision = "Bf16" if options.device == "cuda" else "F32"
    command.main(options, shape=options.size, device=options.device, precision=precision)
