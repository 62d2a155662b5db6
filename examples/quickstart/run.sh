#!/usr/bin/env bash
# Runs both stages of the quickstart in the folder WORK (the first argument), then compares base, stage 1 and stage 2.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
bin=${STIC_BIN:-$here/../../target/release}
work=${1:?usage: run.sh WORK_DIR}
begun=$SECONDS

"$bin/kubectl-stic" run -f "$here/stage-one.yaml" -f "$here/stage-two.yaml" --work-dir "$work"

# By themselves: a failure inside an argument would go unseen.
stage_one=$("$bin/kubectl-stic" artifact stageonerun/scenes --work-dir "$work")
stage_two=$("$bin/kubectl-stic" artifact stagetworun/scenes --work-dir "$work")

volumes=$here/volumes
"$bin/stic-trainer" evaluate \
  --model "$volumes/models/scenes-llava" \
  --adapter "stage 1=$stage_one" \
  --adapter "stage 2=$stage_two" \
  --questions "$volumes/heldout/questions.jsonl" \
  --scenes "$volumes/heldout/scenes.jsonl" \
  --images "$volumes/heldout" \
  --output "$work/evaluation"

echo "Both stages and the evaluation took $((SECONDS - begun)) s. What a toy shows and does not: examples/quickstart/README.md"
