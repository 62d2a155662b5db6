#!/usr/bin/env bash
# kubectl stic with real pods: get, logs -f, suspend, resume, rerun.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
PATH=$STIC_BIN:$PATH
stic() { kubectl stic "$@" --namespace "$NAMESPACE"; }
tree_has() { # PATTERN...: a line of the run's tree contains these patterns in this order
  local tree pattern
  tree=$(stic get s1/watched)
  pattern=$(printf '%s.*' "$@")
  grep -Eq "$pattern" <<<"$tree"
}
# The operator sees a moment after the test that a pod runs.
tree_shows() { until_true "\"$*\" in the tree of watched" 60 tree_has "$@"; }
log=$E2E_SHARED/$NAMESPACE.log

stage_one watched
stic logs s1/watched --follow >"$log" 2>"$log.notes" &
following=$!
process=$(paused watched generate)
tree_shows stageonerun/watched Generating
tree_shows prepare Succeeded "1 attempt" "8/8 items"
tree_shows generate Running "1 attempt"
running watched generate >/dev/null
tree_shows pod/watched-generate- Running node
stic get | grep -E '^stageonerun/watched +Generating' >/dev/null || die "the table is: $(stic get)"

[[ $(stic suspend s1/watched) == *"save their state"* ]] || die "suspend printed another message"
reason stageonerun/watched Suspended
until_true "the kubelet sends SIGTERM" 300 sigterm_pending "$process"
continue_process "$process"
until_true "the pod of a suspended run ends" 300 has_no_pod watched
tree_shows generate Suspended
[[ $(stic suspend s1/watched) == *"already suspended"* ]] || die "it can be suspended twice"
[[ $(stic resume s1/watched) == *"continues"* ]] || die "resume printed another message"

# rerun refuses a run that has not finished.
process=$(paused watched train)
if answer=$(stic rerun s1/watched 2>&1); then die "rerun accepted a run that trains"; fi
[[ $answer == *"has not finished (Training)"*--force* ]] || die "the answer is: $answer"
continue_process "$process"
same_adapter watched
wait $following || die "logs --follow ended with $?: $(cat "$log.notes")"
for step in prepare generate train; do
  grep -q "^\[$step\] ." "$log" || die "no line of $step in the followed log: $(cat "$log")"
done
[ "$(sed -n 's/^\[\([a-z]*\)\].*/\1/p' "$log" | uniq | tr '\n' ' ')" = "prepare generate train " ] || die "the log is out of order: $(cat "$log")"
[ -z "$(sort "$log" | uniq --repeated)" ] || die "lines came twice: $(sort "$log" | uniq --repeated)
in: $(cat "$log")
stderr: $(cat "$log.notes")"
stic logs s1/watched --step prepare | grep . >/dev/null || die "the log of a finished step is empty"

tree_shows stageonerun/watched Succeeded "took ([0-9]+m)?[0-9]+s"
for step in prepare generate train; do tree_shows $step Succeeded; done
digest=$(adapter stageonerun/watched)
tree_shows adapter stic:watched/adapter- "${digest:7:12}" created

[[ $(stic rerun s1/watched) == *rerun* ]] || die "rerun printed another message"
# Abandoned on purpose: its running pods are deleted.
process=$(paused watched generate)
stic rerun s1/watched --force
k wait stageonerun/watched --for=jsonpath='{.status.rerun}'=2 --timeout=300s
continue_process "$process"
succeeded stageonerun/watched
[ "$(adapter stageonerun/watched)" = "$digest" ] || die "the rerun made a different adapter"
tree_shows stageonerun/watched Succeeded "rerun 2"
stic get --output json | python3 -c 'import json, sys; runs = {run["metadata"]["name"]: run for run in json.load(sys.stdin)["items"]}; assert runs["watched"]["status"]["rerun"] == 2'

if answer=$(stic get s1/none 2>&1); then die "get succeeded for a run that does not exist"; fi
[[ $answer == *"does not exist in namespace $NAMESPACE"* ]] || die "the answer is: $answer"
