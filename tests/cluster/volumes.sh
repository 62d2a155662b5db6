#!/usr/bin/env bash
# Inside a cluster of cluster.sh: creates a namespace that enforces Pod Security `restricted`, with claims bound to local volumes.
#
#   volumes.sh NAMESPACE CLAIM[=FOLDER]...
#
# Each claim gets a folder in $CLUSTER_RUN/volumes/NAMESPACE, with a copy of FOLDER's content. A copy, because the kubelet changes
# the group of mounted files.
set -euo pipefail

run=${CLUSTER_RUN:?volumes.sh runs inside a cluster that cluster.sh started}
namespace=${1:?usage: volumes.sh NAMESPACE CLAIM[=FOLDER]...}
shift

kubectl apply --filename - <<Y
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/enforce-version: latest
Y
for volume in "$@"; do
  claim=${volume%%=*}
  folder=$run/volumes/$namespace/$claim
  mkdir -p "$folder"
  if [[ $volume == *=* ]]; then
    [ -d "${volume#*=}" ] || { echo "volumes.sh: error: claim $claim: no such folder: ${volume#*=}" >&2; exit 1; }
    cp -r "${volume#*=}/." "$folder/"
  fi
  # Claim and volume name each other, so that no claim gets another's data.
  kubectl apply --filename - <<Y
apiVersion: v1
kind: PersistentVolume
metadata: {name: $namespace-$claim}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: local
  claimRef: {namespace: $namespace, name: $claim}
  local: {path: $folder}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node]}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $claim, namespace: $namespace}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: local
  volumeName: $namespace-$claim
  resources: {requests: {storage: 10Gi}}
Y
done
kubectl --namespace "$namespace" wait persistentvolumeclaim --all --for=jsonpath='{.status.phase}'=Bound --timeout=300s
