# For cases that access the node's machine: its processes, volumes and components. Sourced after lib.sh.
# shellcheck shell=bash disable=SC2154

[ -n "${CLUSTER_RUN:-}" ] || {
  echo "not run: it needs access to the node's machine; make e2e without KUBECONFIG starts a node"
  exit 77
}

# The folder of a claim on this machine.
folder() { echo "$CLUSTER_RUN/volumes/$NAMESPACE/$1"; }

# paused RUN STEP [INDEX] [--line-in PATTERN]: stops the trainer (SIGSTOP) as soon as it runs, or as soon as a file that matches
# PATTERN has a line, so that it stays in this step. Prints its process id. Assign the result on a line of its own, or a failure
# is ignored.
paused() { python3 "$repository/tests/e2e/pause_trainer.py" "$@"; }
continue_process() { kill -CONT "$1" 2>/dev/null || true; }

# end_with SIGNAL PROCESS: sends the signal to a paused process, continues it, and waits for its end.
end_with() {
  kill "-$1" "$2" || die "process $2 no longer exists"
  continue_process "$2"
  until_true "process $2 ends" 300 has_ended "$2"
}
has_ended() { ! kill -0 "$1" 2>/dev/null; }
# Whether a SIGTERM is pending for a paused process.
sigterm_pending() { (($(sed -n 's/^ShdPnd:\s*/0x/p' "/proc/$1/status") & 0x4000)); }

# kubectl in the operator's namespace.
o() { kubectl --namespace stic-system "$@"; }
upgrade_operator() { # HELM-ARGUMENTS...: upgrades the release and waits until it runs.
  helm upgrade stic-operator "$repository/charts/stic-operator" --namespace stic-system --reset-then-reuse-values --wait \
    --timeout 120s "$@" >/dev/null
  # helm does not wait for the old pod, which may still be the leader.
  until_true "the old operator has ended" 300 no_operator_terminates
}
no_operator_terminates() {
  [ -z "$(o get pods --selector app.kubernetes.io/name=stic-operator --output jsonpath='{.items[*].metadata.deletionTimestamp}')" ]
}
leader() { o get lease stic-operator --output jsonpath='{.spec.holderIdentity}'; }
