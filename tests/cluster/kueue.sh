#!/usr/bin/env bash
# Inside a cluster: installs Kueue from the module that kueue/go.mod pins, and runs a command beside it.
#
#   cluster.sh [--control-plane] kueue.sh CMD ARGS...
#
# CMD finds the manager as a component: component.sh kill kueue, component.sh start kueue. It reads its configuration from
# $KUEUE_CONFIG when it starts, and $KUEUE_READY responds with 200 when it is ready.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
run=${CLUSTER_RUN:?kueue.sh runs inside a cluster that cluster.sh started}
[ $# -gt 0 ] || die "usage: cluster.sh [--control-plane] kueue.sh CMD ARGS..."
programs=$("$here/build.sh" --kueue)
namespace=kueue-system
certificates=$run/kueue/certificates
mkdir -p "$certificates"
export KUEUE_CONFIG=$run/kueue/config.yaml

# The API server's port is the third of ten that the cluster has reserved, of which it uses five.
server=$(kubectl config view --minify --output jsonpath='{.clusters[0].cluster.server}')
case ${server##*:} in
  6443) webhook_port=9443 health_port=8081 ;;
  *) webhook_port=$((${server##*:} + 3)) health_port=$((${server##*:} + 4)) ;;
esac
export KUEUE_READY=http://127.0.0.1:$health_port/readyz

# --- CRDs and webhooks --------------------------------------------------------------------------------------------
kubectl create namespace $namespace >/dev/null
templates=()
for template in crd/* webhook/manifests.yaml internalcert/secret.yaml; do templates+=(--show-only "templates/$template"); done
# The manager is a process of this machine. The API server finds it by the name in its certificate, as it would a pod.
helm template kueue "$programs/chart" --namespace $namespace "${templates[@]}" |
  sed -E "s|^( *)path: (/.*)|\1path: \2\n\1port: $webhook_port|" |
  kubectl apply --server-side --filename - >/dev/null
kubectl apply --filename - >/dev/null <<S
apiVersion: v1
kind: Service
metadata: {name: kueue-webhook-service, namespace: $namespace}
spec: {type: ExternalName, externalName: localhost}
S

# --- the manager --------------------------------------------------------------------------------------------------
cat >"$KUEUE_CONFIG" <<C
apiVersion: config.kueue.x-k8s.io/v1beta2
kind: Configuration
namespace: $namespace
health: {healthProbeBindAddress: "127.0.0.1:$health_port"}
metrics: {bindAddress: "0"}
webhook: {host: 127.0.0.1, port: $webhook_port, certDir: "$certificates"}
leaderElection: {leaderElect: false}
internalCertManagement: {enable: true, webhookServiceName: kueue-webhook-service, webhookSecretName: kueue-webhook-server-cert}
clientConnection: {qps: 300, burst: 500}
integrations: {frameworks: [batch/job, pod]}
# Visibility is an API server of its own, which listens on all addresses.
featureGates:
  VisibilityOnDemand: false
C
cat >"$run/components/kueue" <<C
#!/bin/bash
export KUBECONFIG=$KUBECONFIG
exec $programs/bin/kueue --config $KUEUE_CONFIG --zap-log-level 3
C
chmod +x "$run/components/kueue"
component.sh start kueue
trap 'component.sh kill kueue' EXIT

# As the kubelet does, which mounts the secret that the manager fills.
certificate() {
  kubectl --namespace $namespace get secret kueue-webhook-server-cert --output "jsonpath={.data.tls\\.$1}" |
    base64 --decode >"$certificates/tls.$1"
  [ -s "$certificates/tls.$1" ]
}
within 120 certificate key
certificate crt
within 120 python3 -c "import urllib.request; urllib.request.urlopen('$KUEUE_READY')"
log "Kueue is ready"

"$@"
