#!/usr/bin/env bash
# While a run trains, its columns in kubectl get change. If its pod cannot be reached, the status keeps the last progress with its
# time, and nothing fails.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
export EPOCHS=16 # 32 steps
# Training takes ten seconds or more, and the operator polls once a second.
slow_training='pod: {training: {resources: {limits: {cpu: 400m}}}}'
progress() { k get "stageonerun/$1" --output jsonpath="{.status.progress.$2}"; } # RUN FIELD

# As users watch it.
k get stageoneruns --watch --output-watch-events=false >"$E2E_SHARED/$NAMESPACE.watch" &
watch=$!
trap 'kill $watch' EXIT
stage_one watched "$slow_training"
changed() { # COLUMN: showed at least three different values in phase Training
  [ "$(awk -v column="$1" '$2 == "Training" && NF == 8 {print $column}' "$E2E_SHARED/$NAMESPACE.watch" | sort -u | wc -l)" -ge 3 ]
}
train_has_ended() { [ "$(step stageonerun/watched train state)" = Succeeded ]; }
changed_or_ended() { changed 5 || train_has_ended; }
until_true "the loss of watched changes" 300 changed_or_ended
for column in 3 4 5 6; do # PROGRESS PAIRS LOSS MARGIN
  changed $column || die "column $column did not change: $(cat "$E2E_SHARED/$NAMESPACE.watch")"
done
awk '$2 == "Training" && $7 ~ /^[0-9]+[smh]/ {found = 1} END {exit !found}' "$E2E_SHARED/$NAMESPACE.watch" ||
  die "no ETA was shown: $(cat "$E2E_SHARED/$NAMESPACE.watch")"

# Without a network the trainer continues and reports on its volume, while the status stays as it is.
stage_one isolated "$slow_training"
process=$(paused isolated train)
continue_process "$process"
reports() { [ "$(progress isolated step)" = train ] && [ "$(progress isolated currentStep)" -gt 0 ]; }
until_true "the status of isolated shows progress" 300 reports
nsenter --target "$process" --net ip link set eth0 down
# An earlier answer may still be on its way into the status.
steps_done() { sed -n 's/.*"current":\([0-9]*\).*/\1/p' "$(folder stic)"/isolated/.partial/*/train-00000.progress.json; }
last=$(steps_done)
advanced_by() { [ "$(steps_done)" -ge $((last + $1)) ]; }
until_true "the trainer of isolated continues" 300 advanced_by 2
# An earlier progress may still be on its way into the status.
settled() {
  before=$(progress isolated lastUpdatedTime)
  sleep 2
  [ "$(progress isolated lastUpdatedTime)" = "$before" ]
}
until_true "the status of isolated stays as it is" 300 settled
before=$(progress isolated currentStep) since=$(progress isolated lastUpdatedTime)
last=$(steps_done)
until_true "the trainer of isolated continues" 300 advanced_by 4
[ "$(progress isolated currentStep)" = "$before" ] || die "the progress of an unreachable pod changed"
[ "$(progress isolated lastUpdatedTime)" = "$since" ] || die "the time of the last progress changed"
[ "$(condition stageonerun/isolated Succeeded reason)" = Training ] || die "isolated is $(condition stageonerun/isolated Succeeded reason)"
succeeded stageonerun/watched stageonerun/isolated
[ "$(adapter stageonerun/isolated)" = "$(adapter stageonerun/watched)" ] || die "the adapters of isolated and watched differ"
[ "$(jobs_of isolated train)" = 1 ] || die "the step of an unreachable pod was launched again"
