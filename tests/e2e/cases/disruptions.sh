#!/usr/bin/env bash
# Pods and Jobs deleted and evicted, runs suspended in each step: the adapter of an undisturbed run.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims

stage_one shaken
process=$(caught shaken generate)
k delete pod "$(running shaken generate)" --wait=false
let_go "$process"
process=$(caught shaken train)
pod=$(running shaken train)
kubectl create --filename - --raw "/api/v1/namespaces/$NAMESPACE/pods/$pod/eviction" <<Y
{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "$pod", "namespace": "$NAMESPACE"}}
Y
let_go "$process"

# A Job that somebody deletes is made anew, and goes on from what it left.
stage_one bereft
process=$(caught bereft generate)
job=$(k get jobs --selector stic.dev/run=bereft,stic.dev/step=generate --output jsonpath="{.items[*].metadata.name}")
k delete job "$job" --wait=false
let_go "$process"
other_job() { [[ $(step stageonerun/bereft generate jobName) == *-* && $(step stageonerun/bereft generate jobName) != "$job" ]]; }
until_true "the deleted Job is made anew" 60 other_job

stage_one held
for step in prepare generate train; do
  process=$(caught held $step)
  suspend stageonerun/held true
  reason stageonerun/held Suspended
  until_true "the kubelet tells it to end" 60 told "$process"
  let_go "$process"
  until_true "no pod of a held run is left" 60 has_no_pod held
  k wait stageonerun/held --for=condition=Suspended --timeout=60s
  suspend stageonerun/held false
done
same shaken
same bereft
same held
