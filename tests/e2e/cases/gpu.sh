#!/usr/bin/env bash
# A GPU is asked for and waited for: of two runs on a node with one, the second starts when the first has ended.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
# An extended resource that the node advertises is one to the scheduler and the kubelet, with or without a device.
node=$(kubectl get nodes --output jsonpath='{.items[0].metadata.name}')
kubectl patch node "$node" --subresource=status --type=merge \
  --patch '{"status": {"capacity": {"nvidia.com/gpu": "1"}, "allocatable": {"nvidia.com/gpu": "1"}}}'
gpu='pod: {resources: {limits: {nvidia.com/gpu: 1}}}'
stage_one first "$gpu"
process=$(caught first generate)
stage_one second "$gpu"
reason stageonerun/second Unschedulable
says stageonerun/second "Insufficient nvidia.com/gpu"
# `prepare` needs no GPU, and holds none.
[ "$(k get jobs --selector stic.dev/run=second,stic.dev/step=prepare --output jsonpath='{.items[0].status.succeeded}')" = 1 ] ||
  die "prepare waited for a GPU"
let_go "$process"
succeeded stageonerun/first stageonerun/second
held() { k get pods --selector stic.dev/step=train --output jsonpath='{.items[*].spec.containers[0].resources.limits.nvidia\.com/gpu}'; }
[ "$(held)" = "1 1" ] || die "the training pods held $(held) GPUs"
