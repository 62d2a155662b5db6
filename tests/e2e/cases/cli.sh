#!/usr/bin/env bash
# kubectl stic on real pods, as a user has it: get, logs -f, suspend, resume, rerun.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
PATH=$repository/target/release:$PATH
stic() { kubectl stic "$@" --namespace "$NAMESPACE"; }
shown() { # WORDS...: the tree of the run has a line with these words in this order
  local tree pattern
  tree=$(stic get s1/seen)
  pattern=$(printf '%s.*' "$@")
  grep -Eq "$pattern" <<<"$tree" || die "no \"$*\" in: $tree"
}
log=$E2E_SHARED/$NAMESPACE.log

stage_one seen
stic logs s1/seen --follow >"$log" 2>"$log.notes" &
following=$!
process=$(caught seen generate)
shown stageonerun/seen Generating
shown prepare Succeeded "1 attempt" "8/8 items"
shown generate Running "1 attempt"
running seen generate >/dev/null
shown pod/seen-generate- Running node
stic get | grep -E '^stageonerun/seen +Generating' >/dev/null || die "the table is: $(stic get)"

[[ $(stic suspend s1/seen) == *"save and end"* ]] || die "suspend says nothing"
reason stageonerun/seen Suspended
until_true "the kubelet tells it to end" 60 told "$process"
let_go "$process"
until_true "the pod of a held run ends" 60 has_no_pod seen
shown generate Suspended
[[ $(stic suspend s1/seen) == *"suspended already"* ]] || die "it can be suspended twice"
[[ $(stic resume s1/seen) == *"goes on"* ]] || die "resume says nothing"

# A run that is not over is not given up by mistake.
process=$(caught seen train)
if answer=$(stic rerun s1/seen 2>&1); then die "a run that trains was rerun"; fi
[[ $answer == *"not over (Training)"*--force* ]] || die "the answer is: $answer"
let_go "$process"
same seen
wait $following || die "logs --follow ended with $?: $(cat "$log.notes")"
for step in prepare generate train; do
  grep -q "^\[$step\] ." "$log" || die "nothing of $step in the followed log: $(cat "$log")"
done
[ "$(sed -n 's/^\[\([a-z]*\)\].*/\1/p' "$log" | uniq | tr '\n' ' ')" = "prepare generate train " ] || die "the log is out of order: $(cat "$log")"
[ -z "$(sort "$log" | uniq --repeated)" ] || die "lines came twice: $(sort "$log" | uniq --repeated)
of: $(cat "$log")
and said was: $(cat "$log.notes")"
stic logs s1/seen --step prepare | grep . >/dev/null || die "the log of a finished step is empty"

shown stageonerun/seen Succeeded "took ([0-9]+m)?[0-9]+s"
for step in prepare generate train; do shown $step Succeeded; done
digest=$(adapter stageonerun/seen)
shown adapter stic:seen/adapter- "${digest:7:12}" made

[[ $(stic rerun s1/seen) == *rerun* ]] || die "rerun says nothing"
# Given up on purpose in the middle: what ran for it goes.
process=$(caught seen generate)
stic rerun s1/seen --force
k wait stageonerun/seen --for=jsonpath='{.status.rerun}'=2 --timeout=60s
let_go "$process"
succeeded stageonerun/seen
[ "$(adapter stageonerun/seen)" = "$digest" ] || die "a rerun made other bytes"
shown stageonerun/seen Succeeded "rerun 2"
stic get --output json | python3 -c 'import json, sys; runs = {run["metadata"]["name"]: run for run in json.load(sys.stdin)["items"]}; assert runs["seen"]["status"]["rerun"] == 2'

if answer=$(stic get s1/none 2>&1); then die "a run that is not there was shown"; fi
[[ $answer == *"does not exist in namespace $NAMESPACE"* ]] || die "the answer is: $answer"
