#!/usr/bin/env bash
# Pods and Jobs deleted and evicted, runs suspended in each step: the adapter equals that of an undisturbed run.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims

stage_one shaken
process=$(paused shaken generate)
k delete pod "$(running shaken generate)" --wait=false
continue_process "$process"
process=$(paused shaken train)
pod=$(running shaken train)
kubectl create --filename - --raw "/api/v1/namespaces/$NAMESPACE/pods/$pod/eviction" <<Y
{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "$pod", "namespace": "$NAMESPACE"}}
Y
continue_process "$process"

# A Job that somebody deletes is launched again, and continues from what it left.
stage_one bereft
process=$(paused bereft generate)
job=$(k get jobs --selector stic.dev/run=bereft,stic.dev/step=generate --output jsonpath="{.items[*].metadata.name}")
k delete job "$job" --wait=false
continue_process "$process"
other_job() { [[ $(step stageonerun/bereft generate jobName) == *-* && $(step stageonerun/bereft generate jobName) != "$job" ]]; }
until_true "the deleted Job is launched again" 300 other_job

stage_one held
for step in prepare generate train; do
  process=$(paused held $step)
  suspend stageonerun/held true
  reason stageonerun/held Suspended
  until_true "the kubelet sends SIGTERM" 300 sigterm_pending "$process"
  continue_process "$process"
  until_true "no pod of a suspended run is left" 300 has_no_pod held
  k wait stageonerun/held --for=condition=Suspended --timeout=300s
  suspend stageonerun/held false
done
same_adapter shaken
same_adapter bereft
same_adapter held
