#!/usr/bin/env bash
# Claims that are not bound, that are deleted while in use, and that the operator creates for a run and deletes or keeps.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
volume() { # NAME: creates a volume for claim NAME
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

# Not bound: the run waits, reports it, and continues once there is a volume.
claim unbound
CLAIM=unbound stage_one patient
reason stageonerun/patient ClaimUnbound
message_contains stageonerun/patient "create a PersistentVolume"
[ "$(condition stageonerun/patient InputsReady status)" = False ] || die "an unbound claim is a ready input"
volume unbound

# Deleted while in use: the running step finishes and the next does not start. As the message says, the claim goes with the pods.
volume going
claim going
CLAIM=going stage_one deprived
process=$(paused deprived generate)
k delete persistentvolumeclaim going --wait=false
continue_process "$process"
reason stageonerun/deprived ClaimTerminating
message_contains stageonerun/deprived "is being deleted"
k delete pods --selector stic.dev/run=deprived
until_true "the deleted claim is gone" 300 is_gone persistentvolumeclaim going
# The volume still has the finished work; create its claim again.
kubectl patch persistentvolume "$NAMESPACE-going" --type=json --patch '[{"op": "remove", "path": "/spec/claimRef/uid"}]'
claim going
same_adapter deprived
same_adapter patient

# Created for a run, and deleted with it or kept, in each phase. The data on the volume stays either way, by its reclaim policy.
for step in prepare generate train; do
  for kept in Retain Delete; do
    run=${kept,,}-$step
    volume "$run-output"
    OUTPUT='{volumeClaimTemplate: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}}' \
      stage_one "$run" "retention: {whenDeleted: $kept}"
    process=$(paused "$run" $step)
    k delete stageonerun "$run"
    continue_process "$process"
  done
done
for step in prepare generate train; do
  for kind in jobs configmaps pods; do
    nothing_of() { [ -z "$(k get $kind --selector "stic.dev/run in (retain-$step,delete-$step)" --output name)" ]; }
    until_true "the $kind of runs deleted in $step are deleted" 300 nothing_of
  done
  until_true "the claim of the run with whenDeleted: Delete is deleted" 300 is_gone persistentvolumeclaim delete-$step-output
  k wait persistentvolumeclaim/retain-$step-output --for=jsonpath='{.status.phase}'=Bound --timeout=300s
  # A step that has just started has written nothing yet.
  [ $step = prepare ] || [ -d "$(folder retain-$step-output)/.partial" ] || die "the work of the deleted run is not on its retained volume"
done

# The next run of that name uses the retained claim and the pairs that are sealed on it.
OUTPUT='{volumeClaimTemplate: {accessModes: [ReadWriteOnce], storageClassName: local, resources: {requests: {storage: 1Gi}}}}' \
  stage_one retain-train
same_adapter retain-train generate=0
[ "$(artifact stageonerun/retain-train Prepared state)" = Reused ] || die "the prepared data of the deleted run was not reused"
