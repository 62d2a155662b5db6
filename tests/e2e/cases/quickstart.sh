#!/usr/bin/env bash
# Both manifests of the quickstart applied at once reach Succeeded, in a namespace that enforces `restricted`.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../../.." && pwd)
volumes=${QUICKSTART_VOLUMES:-$repository/examples/quickstart/volumes}

if [ -z "${CLUSTER_RUN:-}" ]; then
  # On another cluster nobody knows how to get data onto its volumes.
  kubectl --namespace "$NAMESPACE" get persistentvolumeclaim models images instructions stic >/dev/null || {
    echo "make namespace $NAMESPACE with claims models, images, instructions (of examples/quickstart/volumes) and stic" >&2
    exit 1
  }
else
  "$repository/tests/cluster/volumes.sh" "$NAMESPACE" "models=$volumes/models" "images=$volumes/images" \
    "instructions=$volumes/instructions" stic
fi
kubectl --namespace "$NAMESPACE" apply --filename "$repository/examples/quickstart/stage-one.yaml" \
  --filename "$repository/examples/quickstart/stage-two.yaml"
kubectl --namespace "$NAMESPACE" wait stageonerun/scenes stagetworun/scenes --for=condition=Succeeded --timeout=900s
