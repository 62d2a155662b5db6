#!/usr/bin/env bash
# Inside a node of cluster.sh: installs the operator with its chart, creates the quickstart's namespace and volumes, and runs
# CMD, or a shell. `make cluster` uses it.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

export PATH=${STIC_BIN:?is not set: run make cluster, or name the folder of the built programs}:$PATH
volumes=${QUICKSTART_VOLUMES:-$repository/examples/quickstart/volumes}
if ! helm install stic-operator "$repository/charts/stic-operator" --namespace stic-system --create-namespace --wait --timeout 300s >&2; then
  kubectl --namespace stic-system describe pods >&2
  kubectl --namespace stic-system logs deployment/stic-operator --tail 20 >&2 || true
  die "the operator did not become ready"
fi
"$here/volumes.sh" quickstart "models=$volumes/models" "images=$volumes/images" "instructions=$volumes/instructions" "heldout=$volumes/heldout" stic >&2
kubectl config set-context --current --namespace quickstart >&2
if [ $# -gt 0 ]; then exec "$@"; fi

cat >&2 <<'T'

This Kubernetes cluster is deleted when you leave this shell. The operator runs in namespace stic-system. The current
namespace, quickstart, has volumes with the quickstart's model and images.

  kubectl apply -f examples/quickstart/stage-one.yaml -f examples/quickstart/stage-two.yaml
  kubectl stic get
  kubectl stic logs s1/scenes -f
  kubectl explain stageonerun.spec

T
cd "$repository"
exec "${SHELL:-/bin/bash}"
