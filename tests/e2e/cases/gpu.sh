#!/usr/bin/env bash
# A run requests a device and waits for it: of two runs on a node with one, the second starts when the first has ended. A pod
# that requests a GPU gets the image for GPUs, and a trainer without CUDA does not occupy one.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
# The scheduler and the kubelet accept any extended resource that the node advertises, with or without a device.
node=$(kubectl get nodes --output jsonpath='{.items[0].metadata.name}')
devices='{"stic.dev/device": "1", "nvidia.com/gpu": "2"}'
kubectl patch node "$node" --subresource=status --type=merge --patch "{\"status\": {\"capacity\": $devices, \"allocatable\": $devices}}"
device='pod: {resources: {limits: {stic.dev/device: 1, cpu: 200m}}}'
stage_one first "$device"
process=$(paused first generate)
stage_one second "$device"
reason stageonerun/second Unschedulable
message_contains stageonerun/second "Insufficient stic.dev/device"
# `prepare` neither needs nor requests a device.
[ "$(k get jobs --selector stic.dev/run=second,stic.dev/step=prepare --output jsonpath='{.items[0].status.succeeded}')" = 1 ] ||
  die "prepare waited for a device"
continue_process "$process"

images=$(o get deployment stic-operator --output jsonpath='{.spec.template.spec.containers[0].args}')
for_cpus=$(sed -n 's/.*"--trainer-image=\([^"]*\)".*/\1/p' <<<"$images")
for_gpus=$(sed -n 's/.*"--trainer-gpu-image=\([^"]*\)".*/\1/p' <<<"$images")
stage_one cuda 'pod: {resources: {limits: {nvidia.com/gpu: 1}}}'
stage_one no-cuda "pod: {image: \"$for_cpus\", resources: {limits: {nvidia.com/gpu: 1}}}"
reason stageonerun/no-cuda ConfigInvalid
message_contains stageonerun/no-cuda "this trainer is built without CUDA"
image_of() { k get pods --selector "stic.dev/run=cuda,stic.dev/step=$1" --output jsonpath='{.items[0].spec.containers[0].image}'; }
has_pod_of_generate() { [ -n "$(image_of generate)" ]; }
until_true "a pod that requests a GPU is created" 300 has_pod_of_generate
[ "$(image_of prepare) $(image_of generate)" = "$for_cpus $for_gpus" ] || die "the images are $(image_of prepare) $(image_of generate)"
k delete stageonerun cuda
succeeded stageonerun/first stageonerun/second
requested() { k get pods --selector stic.dev/step=train --output jsonpath='{.items[*].spec.containers[0].resources.limits.stic\.dev/device}'; }
[ "$(requested)" = "1 1" ] || die "the training pods requested $(requested) devices"
