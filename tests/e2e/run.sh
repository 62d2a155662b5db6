#!/usr/bin/env bash
# The end-to-end suite, on the cluster that KUBECONFIG names: installs the operator with its chart unless it is there,
# and runs the programs of cases/alone/, which stop parts of the cluster, one after the other, and then those of cases/
# side by side. Each has a namespace of its own. `make e2e` starts a node for it; `make e2e KUBECONFIG=FILE` takes any
# cluster whose nodes have the images, or can pull them:
#
#   HELM_ARGUMENTS   more of them, such as --set image.repository=…
#   CASES            names of cases to run, such as "quickstart node-lost"; all by default
#   JOBS             how many run side by side; two for each processor by default
#   E2E_LOGS         where the logs of the cases go, target/e2e by default
#   KEEP=1           keep the namespaces of cases that failed
#
# A case is told NAMESPACE and E2E_SHARED, a folder of all cases, and finds kubectl and helm on PATH. It ends with 0
# (passed), 77 (it cannot run on this cluster, its last line says why), or anything else (failed).
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
[ -x "$repository/target/release/kubectl-stic" ] || die "target/release/kubectl-stic is missing: run make build"
kubectl get --raw /readyz >/dev/null || die "the cluster of $KUBECONFIG does not answer"

logs=$(realpath -m "${E2E_LOGS:-$repository/target/e2e}")
rm -rf "$logs"
mkdir -p "$logs"
E2E_SHARED=$(mktemp -d)
export E2E_SHARED
trap 'rm -rf "$E2E_SHARED"' EXIT

shopt -s nullglob
together=() alone=()
# Those that take longest come first.
for file in cases/quickstart.sh cases/interruptions.sh cases/*.sh cases/alone/*.sh; do
  [[ " ${together[*]} " != *" $file "* ]] || continue
  name=$(basename "$file" .sh)
  [[ -z ${CASES:-} || " $CASES " == *" $name "* ]] || continue
  [ -x "$file" ] || die "$file is no program"
  case $file in
    cases/alone/*) alone+=("$file") ;;
    *) together+=("$file") ;;
  esac
done
[ $((${#together[@]} + ${#alone[@]})) -gt 0 ] || die "there is no case ${CASES:-in tests/e2e/cases}"

if [ -z "$(kubectl get deployments --all-namespaces --selector app.kubernetes.io/name=stic-operator --output name)" ]; then
  # Progress is looked at often, as the runs are short.
  # shellcheck disable=SC2086 # several arguments
  helm install stic-operator "$repository/charts/stic-operator" --namespace stic-system --create-namespace --wait --timeout 120s \
    --set config.progressSeconds=1 ${HELM_ARGUMENTS:-} >"$logs/install.log" 2>&1 || {
    cat "$logs/install.log" >&2
    kubectl --namespace stic-system describe pods >&2
    die "the operator could not be installed"
  }
fi

# What a maintainer needs to see of a case that failed.
explain() { # NAME
  local namespace=e2e-$1
  echo "================ $1 failed; the end of its log, $logs/$1.log:"
  tail -n 25 "$logs/$1.log"
  echo "---------------- runs, Jobs and pods"
  kubectl --namespace "$namespace" get stic,jobs,pods,persistentvolumeclaims --output wide
  kubectl --namespace "$namespace" get stic --output json | python3 -c '
import json, sys
for run in json.load(sys.stdin)["items"]:
    print("{kind}/{name}".format(kind=run["kind"], name=run["metadata"]["name"]))
    for condition in run.get("status", {}).get("conditions", []):
        print("  {type}={status} {reason}: {message}".format(**condition))
'
  echo "---------------- events"
  kubectl --namespace "$namespace" get events --sort-by .lastTimestamp | grep -v MissingClusterDNS | tail -n 25
  echo "---------------- the operator, about this namespace; all of it is in $logs/$1.operator.log"
  kubectl --namespace stic-system logs --selector app.kubernetes.io/name=stic-operator --tail=-1 --prefix >"$logs/$1.operator.log"
  grep -F "\"$namespace\"" "$logs/$1.operator.log" | tail -n 25
  kubectl --namespace "$namespace" describe pods >"$logs/$1.pods.log"
  echo "---------------- described pods are in $logs/$1.pods.log"
}

run_case() { # FILE
  local name status=0 begun=$SECONDS said
  name=$(basename "$1" .sh)
  NAMESPACE=e2e-$name "$1" >"$logs/$name.log" 2>&1 || status=$?
  said="$name, $((SECONDS - begun)) s"
  case $status in
    0) said="ok: $said" ;;
    77) said="not run: $name: $(tail -n 1 "$logs/$name.log")" ;;
    *) said="FAILED: $said" ;;
  esac
  (
    # Not in the middle of another's.
    flock 8
    echo "e2e: $said"
    echo "${said%%:*}" >>"$E2E_SHARED/results"
    [[ $said != FAILED* ]] || explain "$name" 2>&1 || true
  ) 8>"$E2E_SHARED/lock"
  [[ $said == FAILED* && -n ${KEEP:-} ]] ||
    kubectl delete namespace "e2e-$name" --ignore-not-found --wait=false >/dev/null || true
}

for file in "${alone[@]}"; do run_case "$file"; done
side_by_side=${JOBS:-$((2 * $(nproc)))}
for file in "${together[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$side_by_side" ]; do wait -n || true; done
  run_case "$file" &
done
wait

failed=$(grep -c '^FAILED' "$E2E_SHARED/results" || true)
# On a node of its own the whole audit log is there.
[ -z "${CLUSTER_RUN:-}" ] || python3 ../rbac.py --partial "$CLUSTER_RUN/log/audit.log" || failed=$((failed + 1))
echo "$(grep -c '^ok' "$E2E_SHARED/results" || true) passed, $failed failed, $(grep -c '^not run' "$E2E_SHARED/results" || true) not run, in $SECONDS s"
[ "$failed" = 0 ]
