#!/usr/bin/env bash
# Both manifests of the quickstart, applied together in a namespace that enforces Pod Security `restricted`, reach Succeeded, and
# their adapters equal, byte for byte, those that `kubectl-stic run` makes on this machine.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
claims

k apply --filename "$repository/examples/quickstart/stage-one.yaml" \
  --filename "$repository/examples/quickstart/stage-two.yaml"
k wait stageonerun/scenes stagetworun/scenes --for=condition=Succeeded --timeout=900s

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$STIC_BIN/kubectl-stic" run --filename "$repository/examples/quickstart/stage-one.yaml" \
  --filename "$repository/examples/quickstart/stage-two.yaml" --work-dir "$work" >"$work/log" 2>&1 || {
  cat "$work/log" >&2
  exit 1
}
for run in stageonerun/scenes stagetworun/scenes; do
  here=$(sha256sum "$("$STIC_BIN/kubectl-stic" artifact "$run" --work-dir "$work")/adapter_model.safetensors")
  there=$(adapter "$run")
  if [ "$there" != "sha256:${here%% *}" ]; then
    die "$run: the adapter is $there on the cluster and sha256:${here%% *} with kubectl-stic run"
  fi
  echo "$run: $there on both"
done
