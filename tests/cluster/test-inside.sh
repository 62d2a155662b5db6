#!/usr/bin/env bash
# The tests that test.sh runs inside a cluster.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
level=$1

[ "$(kubectl version --output json | python3 -c 'import json,sys; print(json.load(sys.stdin)["serverVersion"]["gitVersion"])')" = \
  "$(sed -n 's|^require k8s.io/kubernetes ||p' "$here/kubernetes/go.mod")" ] || die "the server is not the pinned version"
kubectl apply --filename "$repository/crds" >/dev/null
within 120 kubectl get stageoneruns
grep -q '"resource":"customresourcedefinitions"' "$CLUSTER_RUN/log/audit.log" || die "the audit log lacks a write"

component.sh kill kube-apiserver
! kubectl get --raw /readyz >/dev/null 2>&1 || die "a killed API server answers"
component.sh start kube-apiserver
within 120 kubectl get --raw /readyz
kubectl get crd stageoneruns.stic.dev >/dev/null || die "the CRD is gone after a restart of the API server"

[ "$level" = node ] || exit 0
[ "$(kubectl get pods --all-namespaces --output name | wc -l)" = 0 ] || die "a new cluster has pods"
# The pause image is always present.
kubectl run held --image stic.dev/pause:cluster --restart Never >/dev/null
kubectl wait pod held --for=condition=Ready --timeout=300s >/dev/null
component.sh restart kubelet
kubectl delete pod held --wait --timeout=300s >/dev/null
