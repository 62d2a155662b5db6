#!/usr/bin/env bash
# Runs both stages of the quickstart and their evaluation in the folder WORK_DIR.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
bin=${STIC_BIN:?is not set: run make quickstart, or name the folder of kubectl-stic and stic-trainer}
work=${1:?usage: run.sh WORK_DIR}
started=$SECONDS

"$bin/kubectl-stic" run -f "$here/stage-one.yaml" -f "$here/stage-two.yaml" -f "$here/evaluation.yaml" --work-dir "$work"

echo
echo "Both stages and the evaluation took $((SECONDS - started)) s. examples/quickstart/README.md explains the scores."
