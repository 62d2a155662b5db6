#!/usr/bin/env bash
# The manifests of the quickstart, applied together in a namespace that enforces Pod Security `restricted`, reach Succeeded, and
# their adapters and results equal, byte for byte, those that `kubectl-stic run` makes on this machine.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
claims

manifests=()
for name in stage-one stage-two evaluation; do
  manifests+=(--filename "$repository/examples/quickstart/$name.yaml")
done
k apply "${manifests[@]}"
k wait stageonerun/scenes stagetworun/scenes evaluationrun/scenes --for=condition=Succeeded --timeout=900s

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$STIC_BIN/kubectl-stic" run "${manifests[@]}" --work-dir "$work" >"$work/log" 2>&1 || {
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
here=$(sha256sum "$("$STIC_BIN/kubectl-stic" artifact evaluationrun/scenes results --work-dir "$work")/results.json")
there=$(artifact evaluationrun/scenes Results digest)
if [ "$there" != "sha256:${here%% *}" ]; then
  die "evaluationrun/scenes: the results are $there on the cluster and sha256:${here%% *} with kubectl-stic run"
fi
echo "evaluationrun/scenes: $there on both"
