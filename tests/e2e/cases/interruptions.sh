#!/usr/bin/env bash
# SIGTERM and SIGKILL in the middle of each step: the next attempt continues from the saved state. Interruptions without progress
# are tested in operator/tests/cluster/step_outcomes.rs, because here it is chance whether the operator reads progress in between.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
# stop SIGNAL RUN STEP [PATTERN]: ends the step's trainer, with PATTERN once such a file in the run's .partial folder has a line.
stop() {
  local process
  process=$(paused "$2" "$3" ${4:+--line-in "$(folder stic)/$2/.partial/*/$4"})
  end_with "$1" "$process"
}

stage_one terminated
stop TERM terminated prepare
stop TERM terminated generate 'preferences-*/shard-00000.jsonl'
# Rows of the first attempt are in the sealed file, once each.
process=$(paused terminated generate)
kept=$(cat "$(folder stic)"/terminated/.partial/*/preferences-*/shard-00000.jsonl)
[ -n "$kept" ] || die "no row of the first attempt was kept"
continue_process "$process"
stop TERM terminated train 'adapter-*/metrics.jsonl'
sealed=$(compgen -G "$(folder stic)/terminated/preferences-*/preferences.jsonl")
while read -r item; do
  [ "$(grep -cxF -- "$item" "$sealed")" = 1 ] || die "an item of the first attempt is not in $sealed once: $item"
done <<<"$kept"
same_adapter terminated
for step in prepare generate train; do
  [ "$(exits terminated $step)" = "75 0" ] || die "$step ended with $(exits terminated $step)"
  [ "$(step stageonerun/terminated $step attempts)" = 2 ] || die "the status of $step has $(step stageonerun/terminated $step attempts) attempts"
done
[ "$(step stageonerun/terminated train interruptions.total)" = 1 ] || die "the interruption of train is not counted"

# Without time to save, only unsaved work is lost.
stage_one killed
stop KILL killed train 'adapter-*/metrics.jsonl'
same_adapter killed
[ "$(exits killed train)" = "137 0" ] || die "train ended with $(exits killed train)"
