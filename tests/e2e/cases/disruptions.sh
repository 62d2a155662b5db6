#!/usr/bin/env bash
# Pods and Jobs deleted and evicted, runs suspended in each step: the adapter of an undisturbed run.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
claims
export LIMIT=32 # long enough to be met in each step

stage_one shaken
k delete pod "$(running shaken generate)" --wait=false
pod=$(running shaken train)
kubectl create --filename - --raw "/api/v1/namespaces/$NAMESPACE/pods/$pod/eviction" <<Y
{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "$pod", "namespace": "$NAMESPACE"}}
Y

# A Job that somebody deletes is made anew, and goes on from what it left.
stage_one bereft
running bereft generate >/dev/null
job=$(step stageonerun/bereft generate jobName)
k delete job "$job" --wait=false
other_job() { [[ $(step stageonerun/bereft generate jobName) != "$job" ]]; }
until_true "the deleted Job is made anew" 60 other_job

stage_one held
for step in prepare generate train; do
  running held $step >/dev/null
  suspend stageonerun/held true
  reason stageonerun/held Suspended
  until_true "no pod of a held run is left" 60 has_no_pod held
  k wait stageonerun/held --for=condition=Suspended --timeout=10s
  suspend stageonerun/held false
done
same shaken
same bereft
same held
