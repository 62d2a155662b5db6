#!/usr/bin/env bash
# Pods deleted and evicted, the operator killed, runs suspended: the same adapter as of an undisturbed run.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
claims
export LIMIT=64 # long enough to be caught in each step
stage_one calm
succeeded stageonerun/calm

running() { # running RUN STEP: the name of its pod, once it runs
  until_true "a pod of $2 runs" 120 has_pod "$1" "$2"
  pod_of "$1" "$2"
}
same() {
  succeeded "stageonerun/$1"
  [ "$(adapter "stageonerun/$1")" = "$(adapter stageonerun/calm)" ] || die "$1 made another adapter than the undisturbed run"
  for step in prepare generate train; do
    [ "$(jobs_of "$1" $step)" = 1 ] || die "$1 has $(jobs_of "$1" $step) Jobs of $step"
  done
}

stage_one shaken
k delete pod "$(running shaken generate)" --wait=false
pod=$(running shaken train)
kubectl create --filename - --raw "/api/v1/namespaces/$NAMESPACE/pods/$pod/eviction" <<Y
{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "$pod", "namespace": "$NAMESPACE"}}
Y
operator=$(kubectl get pods --all-namespaces --selector app.kubernetes.io/name=stic-operator --output jsonpath='{.items[0].metadata.namespace} {.items[0].metadata.name}')
kubectl --namespace "${operator% *}" delete pod "${operator#* }" --grace-period=0 --force
same shaken

# Suspended in each phase.
stage_one held
for step in generate train; do
  running held $step >/dev/null
  k patch stageonerun held --type=merge --patch '{"spec": {"suspend": true}}'
  reason stageonerun/held Suspended
  until_true "no pod of a held run is left" 60 has_no_pod held
  k wait stageonerun/held --for=condition=Suspended --timeout=10s
  k patch stageonerun held --type=merge --patch '{"spec": {"suspend": false}}'
done
same held
