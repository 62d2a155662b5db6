#!/usr/bin/env bash
# The end-to-end suite, on the cluster that KUBECONFIG names: installs the operator with its chart unless it is there,
# and runs every program of cases/, each in a namespace of its own. `make e2e` starts a node for it;
# `make e2e KUBECONFIG=FILE` takes any cluster whose nodes have the images, or can pull them:
#
#   HELM_ARGUMENTS   more of them, such as --set image.repository=…
#   CASES            the cases to run, all by default
#   KEEP=1           keep the namespaces of cases that failed
#
# A case is told NAMESPACE, and finds kubectl and helm on PATH. It may end with 0 (passed), or anything else (failed).
set -euo pipefail
cd "$(dirname "$0")"
repository=$(cd ../.. && pwd)

die() {
  echo "e2e: error: $*" >&2
  exit 1
}

: "${KUBECONFIG:?e2e: error: no cluster: give KUBECONFIG=FILE, or run make e2e, which starts a node}"
for program in kubectl helm; do
  command -v $program >/dev/null || die "$program is missing: install it, or add the bin folder that tests/cluster/build.sh prints to PATH"
done
kubectl get --raw /readyz >/dev/null || die "the cluster of $KUBECONFIG does not answer"

if [ -z "$(kubectl get deployments --all-namespaces --selector app.kubernetes.io/name=stic-operator --output name)" ]; then
  # shellcheck disable=SC2086 # several arguments
  helm install stic-operator "$repository/charts/stic-operator" --namespace stic-system --create-namespace --wait --timeout 120s ${HELM_ARGUMENTS:-}
fi

shopt -s nullglob
cases=(${CASES:-cases/*})
[ ${#cases[@]} -gt 0 ] || die "there is no case in tests/e2e/cases"
passed=0 failed=0
for case in "${cases[@]}"; do
  case=cases/$(basename "$case")
  [ -x "$case" ] || die "$case is no program"
  name=$(basename "${case%.*}")
  begun=$SECONDS
  if NAMESPACE=e2e-$name "$case"; then
    passed=$((passed + 1))
    echo "e2e: ok: $name, $((SECONDS - begun)) s"
  else
    failed=$((failed + 1))
    echo "e2e: FAILED: $name, $((SECONDS - begun)) s"
    kubectl --namespace "e2e-$name" get stic,jobs,pods --output wide || true
    kubectl --namespace "e2e-$name" get events --sort-by .lastTimestamp | tail -n 20 || true
    [ -z "${KEEP:-}" ] || continue
  fi
  kubectl delete namespace "e2e-$name" --ignore-not-found --wait=false >/dev/null
done
# On a node of its own the whole audit log is there.
[ -z "${CLUSTER_RUN:-}" ] || python3 ../rbac.py --partial "$CLUSTER_RUN/log/audit.log" || failed=$((failed + 1))
echo "$passed passed, $failed failed"
[ $failed = 0 ]
