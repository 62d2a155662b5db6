#!/usr/bin/env bash
# Claims that are not bound, that are deleted while a run uses them, and that are made for a run and go with it or stay.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
volume() { # NAME: a volume that waits for claim NAME
  mkdir -p "$(folder "$1")"
  kubectl apply --filename - <<Y
apiVersion: v1
kind: PersistentVolume
metadata: {name: $NAMESPACE-$1}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  claimRef: {namespace: $NAMESPACE, name: $1}
  local: {path: $(folder "$1")}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node]}]}]}}
Y
}
claim() {
  k apply --filename - <<Y
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $1}
spec: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}
Y
}

# Not bound: it waits, says so, and goes on by itself once there is a volume.
claim unbound
CLAIM=unbound stage_one patient
reason stageonerun/patient ClaimUnbound
says stageonerun/patient "make a PersistentVolume"
[ "$(condition stageonerun/patient InputsReady status)" = False ] || die "an unbound claim is a ready input"
volume unbound

# Deleted while it is used: the step is done, and the next is not begun. As the message says, the claim goes with the pods.
volume going
claim going
CLAIM=going stage_one robbed
process=$(caught robbed generate)
k delete persistentvolumeclaim going --wait=false
let_go "$process"
reason stageonerun/robbed ClaimTerminating
says stageonerun/robbed "is being deleted"
k delete pods --selector stic.dev/run=robbed
until_true "the deleted claim is gone" 60 is_gone persistentvolumeclaim going
# The volume still has what was done; its claim is made again.
kubectl patch persistentvolume "$NAMESPACE-going" --type=json --patch '[{"op": "remove", "path": "/spec/claimRef/uid"}]'
claim going
same robbed
same patient

# Made for a run, deleted with it or not, in each phase. What is on a volume stays either way: that is its reclaim policy.
for step in prepare generate train; do
  for kept in Retain Delete; do
    run=${kept,,}-$step
    volume "$run-output"
    OUTPUT='{volumeClaimTemplate: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}}' \
      stage_one "$run" "retention: {whenDeleted: $kept}"
    process=$(caught "$run" $step)
    k delete stageonerun "$run"
    let_go "$process"
  done
done
for step in prepare generate train; do
  for kind in jobs configmaps pods; do
    nothing_of() { [ -z "$(k get $kind --selector "stic.dev/run in (retain-$step,delete-$step)" --output name)" ]; }
    until_true "the $kind of runs that were deleted in $step go" 60 nothing_of
  done
  until_true "the claim of a run that takes it along goes" 60 is_gone persistentvolumeclaim delete-$step-output
  k wait persistentvolumeclaim/retain-$step-output --for=jsonpath='{.status.phase}'=Bound --timeout=60s
  # A step that had just begun has nothing yet.
  [ $step = prepare ] || [ -d "$(folder retain-$step-output)/.partial" ] || die "nothing is left of the retained run's work"
done

# The next run of that name goes on with the claim that stayed, and the pairs that are sealed on it.
OUTPUT='{volumeClaimTemplate: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}}' \
  stage_one retain-train
same retain-train generate=0
[ "$(artifact stageonerun/retain-train Prepared state)" = Reused ] || die "what the deleted run had prepared was not found"
