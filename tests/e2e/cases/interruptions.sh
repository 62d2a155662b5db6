#!/usr/bin/env bash
# SIGTERM and SIGKILL in the middle of each step: what was saved is gone on from. Exit 75 without progress ends a run.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
# at_work RUN STEP FILE: the process of the step, stopped once FILE has a line.
at_work() {
  local process until=$((SECONDS + 60)) file
  process=$(caught "$1" "$2")
  let_go "$process"
  until file=$(compgen -G "$(folder stic)/$1/.partial/*/$3") && [ -s "$file" ]; do
    [ $SECONDS -lt $until ] || die "$2 of $1 wrote no line of $3 in 60 s"
    read -rt 0.02 <> <(:) || true
  done
  kill -STOP "$process" || die "$2 of $1 was over before it could be stopped"
  echo "$process"
}
rows() { cat "$(folder stic)/$1"/.partial/*/preferences-*/shard-*.jsonl 2>/dev/null | sort | uniq --repeated; }

export EPOCHS=4
stage_one told
ended TERM "$(caught told prepare)"
ended TERM "$(at_work told generate 'preferences-*/shard-00000.jsonl')"
[ -z "$(rows told)" ] || die "an item was made twice"
ended TERM "$(at_work told train 'adapter-*/metrics.jsonl')"
same told
for step in prepare generate train; do
  [ "$(exits told $step)" = "75 0" ] || die "$step ended with $(exits told $step)"
  [ "$(step stageonerun/told $step attempts)" = 2 ] || die "$step says $(step stageonerun/told $step attempts) attempts"
done
[ "$(step stageonerun/told train interruptions.total)" = 1 ] || die "the interruption of train is not counted"

# With no time to save, what is lost is what was not saved yet.
stage_one shot
ended KILL "$(at_work shot train 'adapter-*/metrics.jsonl')"
same shot
[ "$(exits shot train)" = "137 0" ] || die "train ended with $(exits shot train)"

# Three times with nothing done in between is no way to go on.
stage_one futile
for _ in 1 2 3; do ended TERM "$(caught futile generate)"; done
reason stageonerun/futile Interrupted
says stageonerun/futile "3 times asking to be resumed"
says stageonerun/futile "raise spec.rerun"
until_true "no pod of a run that is over is left" 60 has_no_pod futile
rerun stageonerun/futile 1
k wait stageonerun/futile --for=jsonpath='{.status.rerun}'=1 --timeout=60s
same futile prepare=2 generate=2
