#!/usr/bin/env bash
# The end-to-end suite, on the cluster of KUBECONFIG. Installs the operator with its chart unless it is installed. Runs the cases
# in cases/alone/, which stop parts of the cluster, one after the other, and then those in cases/ concurrently, each in its own
# namespace. `make e2e` starts a node for it; `make e2e KUBECONFIG=FILE` uses any cluster whose nodes have the images or can pull
# them.
#
#   HELM_ARGUMENTS   more arguments for helm install, such as --set image.repository=…
#   CASES            names of cases to run, such as "quickstart node-lost"; default: all
#   GROUP            another folder than cases: gpus holds the cases of make gpu-node-test
#   JOBS             how many cases run concurrently; default: two for each processor
#   E2E_LOGS         folder for the logs of the cases; default: target/e2e
#   KEEP=1           keep the namespaces of failed cases
#
# A case gets NAMESPACE and E2E_SHARED, a folder that all cases share, and has kubectl and helm on PATH. It exits with 0 (passed),
# 77 (cannot run on this cluster; its last line says why), or anything else (failed).
set -euo pipefail
cd "$(dirname "$0")"
repository=$(cd ../.. && pwd)

die() {
  echo "e2e: error: $*" >&2
  exit 1
}

: "${KUBECONFIG:?e2e: error: no cluster: set KUBECONFIG, or run make e2e, which starts a node}"
for program in kubectl helm; do
  command -v $program >/dev/null || die "$program is missing: install it, or add the bin folder that tests/cluster/build.sh prints to PATH"
done
[ -n "${STIC_BIN:-}" ] || die "STIC_BIN is not set: run make e2e, or name the folder of the built programs"
[ -x "$STIC_BIN/kubectl-stic" ] || die "$STIC_BIN/kubectl-stic is missing: run make build"
kubectl get --raw /readyz >/dev/null || die "the cluster of $KUBECONFIG does not respond"

logs=$(realpath -m "${E2E_LOGS:-$repository/target/e2e}")
rm -rf "$logs"
mkdir -p "$logs"
E2E_SHARED=$(mktemp -d)
export E2E_SHARED
trap 'rm -rf "$E2E_SHARED"' EXIT

shopt -s nullglob
concurrent=() alone=()
group=${GROUP:-cases}
# The longest cases come first.
for file in cases/quickstart.sh cases/interruptions.sh "$group"/*.sh "$group"/alone/*.sh; do
  [[ $file == "$group"/* && $file != */lib.sh ]] || continue
  [[ " ${concurrent[*]} " != *" $file "* ]] || continue
  name=$(basename "$file" .sh)
  [[ -z ${CASES:-} || " $CASES " == *" $name "* ]] || continue
  [ -x "$file" ] || die "$file is not executable"
  case $file in
    */alone/*) alone+=("$file") ;;
    *) concurrent+=("$file") ;;
  esac
done
[ $((${#concurrent[@]} + ${#alone[@]})) -gt 0 ] || die "no case in tests/e2e/$group is named ${CASES:-}"

if [ -z "$(kubectl get deployments --all-namespaces --selector app.kubernetes.io/name=stic-operator --output name)" ]; then
  # The runs are short, so progress is polled often.
  # shellcheck disable=SC2086 # several arguments
  helm install stic-operator "$repository/charts/stic-operator" --namespace stic-system --create-namespace --wait --timeout 120s \
    --set config.progressSeconds=1 ${HELM_ARGUMENTS:-} >"$logs/install.log" 2>&1 || {
    cat "$logs/install.log" >&2
    kubectl --namespace stic-system describe pods >&2
    die "cannot install the operator"
  }
fi

# Prints what a maintainer needs to understand a failed case.
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
  echo "---------------- the operator's log about this namespace; the whole log is in $logs/$1.operator.log"
  kubectl --namespace stic-system logs --selector app.kubernetes.io/name=stic-operator --tail=-1 --prefix >"$logs/$1.operator.log"
  grep -F "\"$namespace\"" "$logs/$1.operator.log" | tail -n 25
  kubectl --namespace "$namespace" describe pods >"$logs/$1.pods.log"
  echo "---------------- descriptions of the pods are in $logs/$1.pods.log"
}

run_case() { # FILE
  local name status=0 started=$SECONDS result
  name=$(basename "$1" .sh)
  NAMESPACE=e2e-$name "$1" >"$logs/$name.log" 2>&1 || status=$?
  result="$name, $((SECONDS - started)) s"
  case $status in
    0) result="ok: $result" ;;
    77) result="not run: $name: $(tail -n 1 "$logs/$name.log")" ;;
    *) result="FAILED: $result" ;;
  esac
  (
    # One case at a time, so that their output does not mix.
    flock 8
    echo "e2e: $result"
    echo "${result%%:*}" >>"$E2E_SHARED/results"
    [[ $result != FAILED* ]] || explain "$name" 2>&1 || true
  ) 8>"$E2E_SHARED/lock"
  [[ $result == FAILED* && -n ${KEEP:-} ]] ||
    kubectl delete namespace "e2e-$name" --ignore-not-found --wait=false >/dev/null || true
}

for file in "${alone[@]}"; do run_case "$file"; done
concurrency=${JOBS:-$((2 * $(nproc)))}
for file in "${concurrent[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge "$concurrency" ]; do wait -n || true; done
  run_case "$file" &
done
wait

failed=$(grep -c '^FAILED' "$E2E_SHARED/results" || true)
# With a node of our own, its audit log is available.
[ -z "${CLUSTER_RUN:-}" ] || python3 ../rbac.py --partial "$CLUSTER_RUN/log/audit.log" || failed=$((failed + 1))
echo "$(grep -c '^ok' "$E2E_SHARED/results" || true) passed, $failed failed, $(grep -c '^not run' "$E2E_SHARED/results" || true) not run, in $SECONDS s"
[ "$failed" = 0 ]
