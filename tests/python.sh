#!/usr/bin/env bash
# Compares the trainer with transformers and PEFT, and its server with what OpenAI's client expects.
#
#   python.sh PYTHON WORK     an interpreter with tests/requirements.txt, and the work folder of a finished quickstart
#
# STIC_BIN is the folder of the built programs; `make python-tests` sets it.
set -euo pipefail

python=${1:?usage: python.sh PYTHON WORK}
work=${2:?usage: python.sh PYTHON WORK}
root=$(cd "$(dirname "$0")/.." && pwd)
bin=${STIC_BIN:?is not set: run make python-tests, or name the folder of the built programs}
volumes=$root/examples/quickstart/volumes
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

echo "== further models through the Rust parity gates: other seeds, widths, heads, grids, prompts"
"$python" "$root/tests/parity/make_fixtures.py" --variants "$scratch/variants"
STIC_PARITY_DIR=$scratch/variants cargo test --profile ci --workspace --test parity

echo "== bf16 against transformers in bf16"
"$python" "$root/tests/parity/check_bf16.py" --trainer "$bin/stic-trainer" --toy "$volumes/models/scenes-llava" \
  --images "$volumes/heldout" --questions "$volumes/heldout/questions.jsonl"

echo "== all layouts of LLaVA checkpoints"
"$python" "$root/tests/parity/check_layouts.py" --trainer "$bin/stic-trainer"

echo "== the quickstart's adapters in PEFT, and its merged export in transformers"
for run in stageonerun/scenes stagetworun/scenes; do
  "$python" "$root/tests/peft/check_quickstart.py" --trainer "$bin/stic-trainer" \
    --model "$volumes/models/scenes-llava" \
    --adapter "$("$bin/kubectl-stic" artifact "$run" --work-dir "$work")" \
    --images "$volumes/heldout" --questions "$volumes/heldout/questions.jsonl"
done

echo "== the server with OpenAI's client, against evaluate"
"$python" "$root/tests/parity/check_serving.py" --trainer "$bin/stic-trainer" --model "$volumes/models/scenes-llava" \
  --adapter "$("$bin/kubectl-stic" artifact stagetworun/scenes --work-dir "$work")" \
  --images "$volumes/heldout" --questions "$volumes/heldout/questions.jsonl"
