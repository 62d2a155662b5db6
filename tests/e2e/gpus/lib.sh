# Sourced by the cases of this folder. gpus.sh has put the driver into $GPU_DRIVER_FOLDER, from which the device plugin reads what
# it gives to the next pod. That is the same for all pods of the node, so one case runs at a time.
# shellcheck shell=bash disable=SC2154
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../node.sh"
driver=${GPU_DRIVER_FOLDER:?it runs on a node of tests/cluster/gpus.sh}

# every_pod [VARIABLE]...: what the driver says to pods from now on, beside the variables of every driver.
every_pod() { { cat "$driver/env.given" && printf '%s\n' "$@"; } >"$driver/env"; }
# coming_pods LINE...: what it says to each coming pod, one after the other.
coming_pods() { printf '%s\n' "$@" >"$driver/next"; }
# A node that lost its driver, but still advertises GPUs.
no_driver() { rm "$driver/env"; }
# A case that failed may have left something else.
every_pod
rm -f "$driver/next"

# Unlike `succeeded`, does not wait for a run that has failed.
succeeds() { # KIND/NAME
  k wait "$1" --for=jsonpath='{.status.completionTime}' --timeout=1800s
  [ "$(condition "$1" Succeeded status)" = True ] || die "$1: $(condition "$1" Succeeded message)"
}

# The operator's flag trainer-image or trainer-gpu-image.
image_of_flag() {
  o get deployment stic-operator --output jsonpath='{.spec.template.spec.containers[0].args}' |
    sed -n 's/.*"--'"$1"'=\([^"]*\)".*/\1/p'
}

one_gpu='resources: {limits: {nvidia.com/gpu: 1}}'

# on_gpu NAME [POD]: a short StageOneRun whose pods request a GPU, in BF16 therefore.
on_gpu() {
  k apply --filename - <<Y
apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {name: $1}
spec:
  model: {volume: {claimName: models, path: scenes-llava}}
  images: {volume: {claimName: images, path: unlabelled}, limit: 4}
  preferences: {sampling: {maxNewTokens: 24}}
  training:
    lora: {rank: 8, alpha: 16}
    optimizer: {learningRate: "1e-3"}
    globalBatchSize: 2
    epochs: 2
    saveSteps: 1
  output: {volume: {claimName: stic, path: $1}}
  pod: {${2:-$one_gpu}}
Y
}
