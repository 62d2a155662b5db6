#!/usr/bin/env bash
# While a run trains, its columns move; a pod that cannot be reached leaves what was known, with its time, and fails nothing.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
export EPOCHS=10 # 20 steps
# They take ten seconds or more, of which the operator sees one a second.
slowly='pod: {training: {resources: {limits: {cpu: 400m}}}}'
progress() { k get "stageonerun/$1" --output jsonpath="{.status.progress.$2}"; } # RUN FIELD

# As people watch it.
k get stageoneruns --watch --output-watch-events=false >"$E2E_SHARED/$NAMESPACE.watch" &
watch=$!
trap 'kill $watch' EXIT
stage_one seen "$slowly"
moved() { # COLUMN: of phase Training, at least three different values were shown
  [ "$(awk -v column="$1" '$2 == "Training" && NF == 8 {print $column}' "$E2E_SHARED/$NAMESPACE.watch" | sort -u | wc -l)" -ge 3 ]
}
train_is_over() { [ "$(step stageonerun/seen train state)" = Succeeded ]; }
moved_or_over() { moved 5 || train_is_over; }
until_true "the loss of seen moves" 120 moved_or_over
for column in 3 4 5 6; do # PROGRESS PAIRS LOSS MARGIN
  moved $column || die "column $column stood still: $(cat "$E2E_SHARED/$NAMESPACE.watch")"
done
awk '$2 == "Training" && $7 ~ /^[0-9]+[smh]/ {found = 1} END {exit !found}' "$E2E_SHARED/$NAMESPACE.watch" ||
  die "no ETA was shown: $(cat "$E2E_SHARED/$NAMESPACE.watch")"

# Cut off: the trainer goes on and says so on its volume, the status stays.
stage_one cut "$slowly"
process=$(caught cut train)
let_go "$process"
reports() { [ "$(progress cut step)" = train ] && [ "$(progress cut currentStep)" -gt 0 ]; }
until_true "cut reports its training" 60 reports
nsenter --target "$process" --net ip link set eth0 down
# What was asked before that may still be on its way into the status.
done_by_now() { sed -n 's/.*"current":\([0-9]*\).*/\1/p' "$(folder stic)"/cut/.partial/*/train-00000.progress.json; }
last=$(done_by_now)
ahead() { [ "$(done_by_now)" -ge $((last + $1)) ]; }
until_true "the trainer of cut goes on" 60 ahead 2
stood=$(progress cut currentStep) since=$(progress cut lastUpdatedTime)
last=$(done_by_now)
until_true "the trainer of cut goes on" 60 ahead 4
[ "$(progress cut currentStep)" = "$stood" ] || die "the status of a pod that cannot be reached moved"
[ "$(progress cut lastUpdatedTime)" = "$since" ] || die "the time of what is known moved"
[ "$(condition stageonerun/cut Succeeded reason)" = Training ] || die "cut is $(condition stageonerun/cut Succeeded reason)"
succeeded stageonerun/seen stageonerun/cut
[ "$(adapter stageonerun/cut)" = "$(adapter stageonerun/seen)" ] || die "cut made another adapter than seen"
[ "$(jobs_of cut train)" = 1 ] || die "a pod that could not be reached was run again"
