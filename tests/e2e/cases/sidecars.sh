#!/usr/bin/env bash
# A platform that injects a sidecar into every pod. With a native one, both stages succeed. With an ordinary one the run says what
# keeps its pods from ending and how to exclude them, and doing that lets it succeed.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
# The image of the sidecar is on the node.
source "$(dirname "$0")/../node.sh"
kubectl get --raw /apis/admissionregistration.k8s.io/v1 | grep '"mutatingadmissionpolicies"' >/dev/null || {
  echo "this Kubernetes has no MutatingAdmissionPolicy"
  exit 77
}
claims

# A policy cannot set capabilities, whose lists are atomic, so that the sidecars are not `restricted`.
kubectl label namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=baseline --overwrite

# inject NAME CONDITION LIST [FIELDS]: adds a container to LIST of the pods for which CONDITION holds, as they are created.
inject() {
  kubectl apply --filename - <<Y
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: $NAMESPACE-$1}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $NAMESPACE}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
  matchConditions:
  - {name: included, expression: "$2 && object.metadata.?annotations['sidecar'].orValue('') != 'none'"}
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: >-
        Object{spec: Object.spec{$3: [Object.spec.$3{name: 'sidecar', image: 'stic.dev/pause:cluster'${4:-}}]}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: $NAMESPACE-$1}
spec: {policyName: $NAMESPACE-$1}
Y
}
ordinary="object.metadata.?labels['stic.dev/run'].orValue('') == 'ordinary'"
trap 'kubectl delete mutatingadmissionpolicies,mutatingadmissionpolicybindings "$NAMESPACE-native" "$NAMESPACE-ordinary"' EXIT
inject native "!($ordinary)" initContainers ", restartPolicy: 'Always'"
inject ordinary "$ordinary" containers
has_sidecar() { # RUN FIELD
  k create --dry-run=server --output jsonpath="{.spec.$2[*].name}" --filename - <<Y | grep sidecar >/dev/null
apiVersion: v1
kind: Pod
metadata: {name: probe, labels: {stic.dev/run: $1}}
spec: {containers: [{name: a, image: a}]}
Y
}
until_true "native sidecars are injected" 300 has_sidecar native initContainers
until_true "ordinary sidecars are injected" 300 has_sidecar ordinary containers

stage_one ordinary
SHARDS=2 stage_one native
stage_two two native
reason stageonerun/ordinary SidecarRunning
message_contains stageonerun/ordinary "container sidecar keeps its pod from ending"
message_contains stageonerun/ordinary "spec.pod.annotations"
patch stageonerun/ordinary '{"pod": {"annotations": {"sidecar": "none"}}}'
same_adapter native
same_adapter ordinary
succeeded stagetworun/two
with_sidecar() { # RUN: how many of its pods have a native sidecar, and how many there are
  k get pods --selector "stic.dev/run=$1" --output jsonpath='{range .items[*]}{.spec.initContainers[*].name}{"\n"}{end}'
}
for run in native=4 two=3; do
  [ "$(with_sidecar "${run%=*}" | tr '\n' ' ')" = "$(printf 'sidecar %.0s' $(seq "${run#*=}"))" ] ||
    die "not every pod of ${run%=*} had a sidecar: $(with_sidecar "${run%=*}")"
done
