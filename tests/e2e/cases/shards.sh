#!/usr/bin/env bash
# One shard fails: the others continue, and the Job repeats no finished work. A higher spec.rerun starts over.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
export SHARDS=3
exits_of() { # RUN INDEX
  k get pods --selector "stic.dev/run=$1,stic.dev/step=generate,batch.kubernetes.io/job-completion-index=$2" \
    --sort-by .metadata.creationTimestamp \
    --output jsonpath='{.items[*].status.containerStatuses[0].state.terminated.exitCode}'
}
exited_with() { # RUN EXITS-OF-0 EXITS-OF-1 EXITS-OF-2
  local index
  for index in 0 1 2; do
    [ "$(exits_of "$1" $index)" = "${*:index + 2:1}" ] || die "shard $index of $1 exited with $(exits_of "$1" $index)"
  done
}

# Killed once: only this shard is retried.
stage_one stumbles
process=$(paused stumbles generate 1)
end_with KILL "$process"

# Killed without a retry left: the run fails after the other shards have finished. The limit is 0, because any other is renewed if
# the operator happens to read the progress of the other shards.
stage_one falls 'backoff: {limit: 0}'
process=$(paused falls generate 1)
end_with KILL "$process"
reason stageonerun/falls TrainerFailed
message_contains stageonerun/falls "step generate failed: index 1 of 3: it was killed without time to save its state"
exited_with falls 0 137 0
for index in 0 2; do
  wanted=$((index == 0 ? 3 : 2)) # 8 items
  rows=$(cat "$(folder stic)"/falls/.partial/*/preferences-*/shard-0000$index.jsonl | wc -l)
  [ "$rows" = $wanted ] || die "shard $index wrote $rows rows instead of $wanted"
done
rerun stageonerun/falls 1
k wait stageonerun/falls --for=jsonpath='{.status.rerun}'=1 --timeout=300s

same_adapter stumbles
exited_with stumbles 0 "137 0" 0
same_adapter falls prepare=2 generate=2
