#!/usr/bin/env bash
# A GPU that a step cannot use: the step ends at its first attempt, within seconds, with the reason and the message of docs/gpu.md.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
claims
node_of_test=$(kubectl get nodes --output jsonpath='{.items[0].metadata.name}')

# refused RUN EXIT-CODE REASON MESSAGE: how its generation ends.
refused() {
  local container seconds
  reason "stageonerun/$1" "$3"
  message_contains "stageonerun/$1" "$4"
  [ "$(exits "$1" generate)" = "$2" ] || die "$1: the pods of generate exited with $(exits "$1" generate) instead of $2"
  container='{.items[0].status.containerStatuses[0].state.terminated'
  seconds=$(k get pods --selector "stic.dev/run=$1,stic.dev/step=generate" --output jsonpath="$container.startedAt} $container.finishedAt}")
  seconds=$(($(date --date "${seconds#* }" +%s) - $(date --date "${seconds% *}" +%s)))
  [ "$seconds" -le 30 ] || die "$1 occupied the GPU for $seconds s"
  echo "$1: $3 after $seconds s: $(condition "stageonerun/$1" Succeeded message)"
}

on_gpu image-for-cpus "image: \"$(image_of_flag trainer-image)\", $one_gpu"
refused image-for-cpus 64 ConfigInvalid "requests a GPU, but this trainer is built without CUDA"

every_pod GPU_DRIVER=12.8
on_gpu old-driver
refused old-driver 64 ConfigInvalid "this trainer needs CUDA 13.0, but the machine's driver is for CUDA 12.8"

every_pod GPU_CC=7.5
on_gpu old-gpu
refused old-gpu 64 ConfigInvalid "the GPU has compute capability 7.5"

every_pod GPU_DEVICES=1
on_gpu one-of-two "generation: {resources: {limits: {nvidia.com/gpu: 2}}}, training: {$one_gpu}"
refused one-of-two 64 ConfigInvalid "this step needs 2 GPUs, but only 1 can be seen"

# Less than the weights.
every_pod GPU_MEMORY=4M
on_gpu little-memory
refused little-memory 71 OutOfMemory "GPU"

no_driver
on_gpu no-driver
refused no-driver 64 ConfigInvalid "this trainer needs CUDA 13.0, but there is no NVIDIA driver"

# One that fails at every start is retried as after an interruption, but not for ever.
every_pod GPU_FAIL=init:1=CUDA_ERROR_ECC_UNCORRECTABLE
on_gpu broken
reason stageonerun/broken DeviceFailed
message_contains stageonerun/broken "$node_of_test"
message_contains stageonerun/broken CUDA_ERROR_ECC_UNCORRECTABLE
[[ "$(exits broken generate)" =~ ^76( 76){2,}$ ]] || die "broken: the pods of generate exited with $(exits broken generate)"
