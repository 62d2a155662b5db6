# For cases that reach into the machine of the node: its processes, volumes and components. Sourced after lib.sh.
# shellcheck shell=bash disable=SC2154

[ -n "${CLUSTER_RUN:-}" ] || {
  echo "not run: it reaches into the machine of the node; make e2e without KUBECONFIG starts one"
  exit 77
}

# The folder of a claim on this machine.
folder() { echo "$CLUSTER_RUN/volumes/$NAMESPACE/$1"; }

# trainer RUN STEP [INDEX]: the process of a trainer that runs. Its host is named after its Job, and the kubelet's folder
# of logs after its namespace.
trainer() {
  local process host
  for process in $(pgrep --exact stic-trainer); do
    host=$(cat "/proc/$process/root/etc/hostname" 2>/dev/null) || continue
    [[ $host == "$1-$2-"* && (-z ${3:-} || $host == *"-${3:-}") ]] || continue
    if compgen -G "$CLUSTER_RUN/pod-logs/${NAMESPACE}_$host[-_]*" >/dev/null; then
      echo "$process"
      return
    fi
  done
  return 1
}

# caught RUN STEP [INDEX]: stops the trainer as soon as it runs, so that it stays in this step; prints its process.
caught() {
  local until=$((SECONDS + 120)) process
  until process=$(trainer "$@") && kill -STOP "$process" 2>/dev/null; do
    [ $SECONDS -lt $until ] || die "no trainer of $* in 120 s"
    read -rt 0.03 <> <(:) || true
  done
  echo "$process"
}
let_go() { kill -CONT "$1" 2>/dev/null || true; }

# ended SIGNAL PROCESS: sends it until the process is gone. The first process of a container gets no SIGTERM before it
# says what it does with one.
ended() {
  local until=$((SECONDS + 60))
  while kill "-$1" "$2" 2>/dev/null; do
    let_go "$2"
    [ $SECONDS -lt $until ] || die "process $2 did not end in 60 s"
    read -rt 0.1 <> <(:) || true
  done
}

# The operator.
o() { kubectl --namespace stic-system "$@"; }
operator() { # CHANGES...: upgrades the release, and waits until it runs.
  helm upgrade stic-operator "$repository/charts/stic-operator" --namespace stic-system --reset-then-reuse-values --wait \
    --timeout 120s "$@" >/dev/null
}
leader() { o get lease stic-operator --output jsonpath='{.spec.holderIdentity}'; }
