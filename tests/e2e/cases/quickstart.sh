#!/usr/bin/env bash
# Both manifests of the quickstart applied at once reach Succeeded, in a namespace that enforces `restricted`, and their
# adapters are those that `kubectl-stic run` makes of them on this machine, to the byte.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
claims

k apply --filename "$repository/examples/quickstart/stage-one.yaml" \
  --filename "$repository/examples/quickstart/stage-two.yaml"
k wait stageonerun/scenes stagetworun/scenes --for=condition=Succeeded --timeout=900s

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$repository/target/release/kubectl-stic" run --filename "$repository/examples/quickstart/stage-one.yaml" \
  --filename "$repository/examples/quickstart/stage-two.yaml" --work-dir "$work" >"$work/log" 2>&1 || {
  cat "$work/log" >&2
  exit 1
}
for run in stageonerun/scenes stagetworun/scenes; do
  here=$(sha256sum "$("$repository/target/release/kubectl-stic" artifact "$run" --work-dir "$work")/adapter_model.safetensors")
  there=$(adapter "$run")
  if [ "$there" != "sha256:${here%% *}" ]; then
    die "$run: the cluster made an adapter $there, kubectl-stic run one of sha256:${here%% *}"
  fi
  echo "$run: $there on both"
done
