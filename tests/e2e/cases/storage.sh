#!/usr/bin/env bash
# A full volume: exit 74, said with its mend; once there is room the run goes on, to the bytes of a run that had it.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
small() { # CLAIM SIZE
  mkdir -p "$(folder "$1")"
  mount -t tmpfs -o "size=$2" tmpfs "$(folder "$1")"
  "$repository/tests/cluster/volumes.sh" "$NAMESPACE" "$1"
}

# Too small from the start: `prepare` says how much is missing, before anything is computed.
small tiny 64k
CLAIM=tiny stage_one cramped 'backoff: {limit: 0}'

# Filled while a step works: the step is tried again, and goes on once there is room.
small filling 64m
CLAIM=filling stage_one filled
for step in generate train; do
  process=$(caught filled $step)
  dd if=/dev/zero of="$(folder filling)/ballast" bs=64k status=none 2>/dev/null || true
  let_go "$process"
  failed() { [[ $(exits filled $step) == 74* ]]; }
  until_true "the full volume fails $step" 60 failed
  said() { [[ $(condition stageonerun/filled Succeeded message) == *"tried again"*"free space or enlarge the volume"* ]]; }
  # Said between two attempts, of which a busy machine may see more than one fail.
  until_true "filled says why $step is tried again" 120 said
  rm "$(folder filling)/ballast"
done
same filled
for step in generate train; do
  [[ $(exits filled $step) =~ ^(74 )+0$ ]] || die "$step ended with $(exits filled $step)"
done

reason stageonerun/cramped StorageFailed
says stageonerun/cramped "the run needs up to"
says stageonerun/cramped "free space or enlarge the volume, then run again"
k wait stageonerun/cramped --for=condition=Stalled --timeout=60s
mount -o remount,size=64m "$(folder tiny)"
rerun stageonerun/cramped 1
k wait stageonerun/cramped --for=jsonpath='{.status.rerun}'=1 --timeout=60s
same cramped prepare=2
