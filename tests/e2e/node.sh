# For cases that reach into the machine of the node: its processes, volumes and components. Sourced after lib.sh.
# shellcheck shell=bash disable=SC2154

[ -n "${CLUSTER_RUN:-}" ] || {
  echo "not run: it reaches into the machine of the node; make e2e without KUBECONFIG starts one"
  exit 77
}

# The folder of a claim on this machine.
folder() { echo "$CLUSTER_RUN/volumes/$NAMESPACE/$1"; }

# caught RUN STEP [INDEX] [--line-in PATTERN]: stops the trainer as soon as it runs, so that it stays in this step, or as
# soon as such a file has a line; prints its process. Assign it by itself, or a failure goes unseen.
caught() { python3 "$repository/tests/e2e/catch.py" "$@"; }
let_go() { kill -CONT "$1" 2>/dev/null || true; }

# ended SIGNAL PROCESS: sends it to a process that was caught, lets it go, and waits for its end.
ended() {
  kill "-$1" "$2" || die "process $2 is not there any more"
  let_go "$2"
  until_true "process $2 ends" 60 over "$2"
}
over() { ! kill -0 "$1" 2>/dev/null; }
# Whether a process that was caught has a SIGTERM waiting for it.
told() { (($(sed -n 's/^ShdPnd:\s*/0x/p' "/proc/$1/status") & 0x4000)); }

# The operator.
o() { kubectl --namespace stic-system "$@"; }
operator() { # CHANGES...: upgrades the release, and waits until it runs.
  helm upgrade stic-operator "$repository/charts/stic-operator" --namespace stic-system --reset-then-reuse-values --wait \
    --timeout 120s "$@" >/dev/null
  # helm counts none that is being deleted, and that may still lead.
  until_true "the old operator has ended" 60 none_ends
}
none_ends() {
  [ -z "$(o get pods --selector app.kubernetes.io/name=stic-operator --output jsonpath='{.items[*].metadata.deletionTimestamp}')" ]
}
leader() { o get lease stic-operator --output jsonpath='{.spec.holderIdentity}'; }
