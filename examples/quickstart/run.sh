#!/usr/bin/env bash
# Runs both stages of the quickstart in the folder WORK_DIR, then compares base, stage 1 and stage 2.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
bin=${STIC_BIN:?is not set: run make quickstart, or name the folder of kubectl-stic and stic-trainer}
work=${1:?usage: run.sh WORK_DIR}
started=$SECONDS

"$bin/kubectl-stic" run -f "$here/stage-one.yaml" -f "$here/stage-two.yaml" --work-dir "$work"

# Assigned on lines of their own: a failure inside an argument would be ignored.
stage_one=$("$bin/kubectl-stic" artifact stageonerun/scenes --work-dir "$work")
stage_two=$("$bin/kubectl-stic" artifact stagetworun/scenes --work-dir "$work")

volumes=$here/volumes
"$bin/stic-trainer" evaluate \
  --model "$volumes/models/scenes-llava" \
  --adapter "stage 1=$stage_one" \
  --adapter "stage 2=$stage_two" \
  --benchmark "Scenes=$volumes/heldout" \
  --output "$work/evaluation"

echo "Both stages and the evaluation took $((SECONDS - started)) s. examples/quickstart/README.md explains the table."
