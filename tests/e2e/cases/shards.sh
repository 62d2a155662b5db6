#!/usr/bin/env bash
# One shard that fails: the others go on, and within the Job nobody does again what is done. A raised rerun starts afresh.
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
ended_so() { # RUN EXITS-OF-0 EXITS-OF-1 EXITS-OF-2
  local index
  for index in 0 1 2; do
    [ "$(exits_of "$1" $index)" = "${*:index + 2:1}" ] || die "shard $index of $1 ended with $(exits_of "$1" $index)"
  done
}

# Killed once: tried again, alone.
stage_one stumbles
process=$(caught stumbles generate 1)
ended KILL "$process"

# Killed until its limit: the run fails, after the others are done.
stage_one falls 'backoff: {limit: 1}'
for _ in 1 2; do
  process=$(caught falls generate 1)
  ended KILL "$process"
done
reason stageonerun/falls TrainerFailed
says stageonerun/falls "step generate failed: index 1 of 3: it was killed with no time to save"
ended_so falls 0 "137 137" 0
for index in 0 2; do
  wanted=$((index == 0 ? 3 : 2)) # 8 items
  made=$(cat "$(folder stic)"/falls/.partial/*/preferences-*/shard-0000$index.jsonl | wc -l)
  [ "$made" = $wanted ] || die "shard $index made $made items of $wanted"
done
rerun stageonerun/falls 1
k wait stageonerun/falls --for=jsonpath='{.status.rerun}'=1 --timeout=60s

same stumbles
ended_so stumbles 0 "137 0" 0
same falls prepare=2 generate=2
