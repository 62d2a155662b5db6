#!/usr/bin/env bash
# A full volume: exit code 74, reported with the remedy. Once there is room, the run continues and makes the same bytes.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
small() { # CLAIM SIZE
  mkdir -p "$(folder "$1")"
  mount -t tmpfs -o "size=$2" tmpfs "$(folder "$1")"
  "$repository/tests/cluster/volumes.sh" "$NAMESPACE" "$1"
}

# Too small from the start: `prepare` reports how much is missing before it computes anything.
small tiny 64k
CLAIM=tiny stage_one cramped 'backoff: {limit: 0}'

# Filled during a step: the step is retried, and continues once there is room.
small filling 64m
CLAIM=filling stage_one filled
for step in generate train; do
  process=$(paused filled $step)
  dd if=/dev/zero of="$(folder filling)/ballast" bs=64k status=none 2>/dev/null || true
  continue_process "$process"
  failed() { [[ $(exits filled $step) == 74* ]]; }
  until_true "the full volume fails $step" 300 failed
  retry_is_reported() { [[ $(condition stageonerun/filled Succeeded message) == *"being retried"*"free space or enlarge the volume"* ]]; }
  # The message is shown between two attempts; on a busy machine more than one may fail.
  until_true "filled reports that $step is being retried" 300 retry_is_reported
  rm "$(folder filling)/ballast"
done
same_adapter filled
for step in generate train; do
  [[ $(exits filled $step) =~ ^(74 )+0$ ]] || die "$step exited with $(exits filled $step)"
done

reason stageonerun/cramped StorageFailed
message_contains stageonerun/cramped "the run needs up to"
message_contains stageonerun/cramped "free space or enlarge the volume, then run again"
k wait stageonerun/cramped --for=condition=Stalled --timeout=300s
mount -o remount,size=64m "$(folder tiny)"
rerun stageonerun/cramped 1
k wait stageonerun/cramped --for=jsonpath='{.status.rerun}'=1 --timeout=300s
same_adapter cramped prepare=2
