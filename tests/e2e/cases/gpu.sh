#!/usr/bin/env bash
# A run requests a GPU and waits for it: of two runs on a node with one GPU, the second starts when the first has ended.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
# The scheduler and the kubelet accept any extended resource that the node advertises, with or without a device.
node=$(kubectl get nodes --output jsonpath='{.items[0].metadata.name}')
kubectl patch node "$node" --subresource=status --type=merge \
  --patch '{"status": {"capacity": {"nvidia.com/gpu": "1"}, "allocatable": {"nvidia.com/gpu": "1"}}}'
gpu='pod: {resources: {limits: {nvidia.com/gpu: 1, cpu: 200m}}}'
stage_one first "$gpu"
process=$(paused first generate)
stage_one second "$gpu"
reason stageonerun/second Unschedulable
message_contains stageonerun/second "Insufficient nvidia.com/gpu"
# `prepare` neither needs nor requests a GPU.
[ "$(k get jobs --selector stic.dev/run=second,stic.dev/step=prepare --output jsonpath='{.items[0].status.succeeded}')" = 1 ] ||
  die "prepare waited for a GPU"
continue_process "$process"
succeeded stageonerun/first stageonerun/second
gpus() { k get pods --selector stic.dev/step=train --output jsonpath='{.items[*].spec.containers[0].resources.limits.nvidia\.com/gpu}'; }
[ "$(gpus)" = "1 1" ] || die "the training pods requested $(gpus) GPUs"
