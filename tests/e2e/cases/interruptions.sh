#!/usr/bin/env bash
# SIGTERM and SIGKILL in the middle of each step: what was saved is gone on from. Exit 75 without progress ends a run.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
# stop SIGNAL RUN STEP [PATTERN]: ends the step's trainer once a file of the run's unfinished work has a line.
stop() {
  local process
  process=$(caught "$2" "$3" ${4:+--line-in "$(folder stic)/$2/.partial/*/$4"})
  ended "$1" "$process"
}

# Slow beside who watches it: a few steps are over in no time otherwise.
slowly='pod: {resources: {limits: {cpu: 200m}}}'
stage_one told "$slowly"
stop TERM told prepare
stop TERM told generate 'preferences-*/shard-00000.jsonl'
# What was made then is still there at the end of the second attempt, once.
process=$(caught told generate)
kept=$(cat "$(folder stic)"/told/.partial/*/preferences-*/shard-00000.jsonl)
[ -n "$kept" ] || die "nothing that was made is kept"
let_go "$process"
stop TERM told train 'adapter-*/metrics.jsonl'
sealed=$(compgen -G "$(folder stic)/told/preferences-*/preferences.jsonl")
while read -r item; do
  [ "$(grep -cxF -- "$item" "$sealed")" = 1 ] || die "an item of the first attempt is not in $sealed once: $item"
done <<<"$kept"
same told
for step in prepare generate train; do
  [ "$(exits told $step)" = "75 0" ] || die "$step ended with $(exits told $step)"
  [ "$(step stageonerun/told $step attempts)" = 2 ] || die "$step says $(step stageonerun/told $step attempts) attempts"
done
[ "$(step stageonerun/told train interruptions.total)" = 1 ] || die "the interruption of train is not counted"

# With no time to save, what is lost is what was not saved yet.
stage_one shot "$slowly"
stop KILL shot train 'adapter-*/metrics.jsonl'
same shot
[ "$(exits shot train)" = "137 0" ] || die "train ended with $(exits shot train)"

# Three times with nothing done in between is no way to go on.
stage_one futile
for _ in 1 2 3; do stop TERM futile generate; done
reason stageonerun/futile Interrupted
says stageonerun/futile "3 times asking to be resumed"
says stageonerun/futile "raise spec.rerun"
until_true "no pod of a run that is over is left" 60 has_no_pod futile
rerun stageonerun/futile 1
k wait stageonerun/futile --for=jsonpath='{.status.rerun}'=1 --timeout=60s
# The Job that would have gone on was deleted.
same futile prepare=2 generate=1
