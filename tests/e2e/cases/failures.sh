#!/usr/bin/env bash
# A failure is reported with its remedy, and the remedy works.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
claims
# Bad data: exit code 65 fails the run at once, with the trainer's message.
k apply --filename - <<Y
apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {name: no-images}
spec:
  model: {volume: {claimName: models, path: scenes-llava}}
  images: {volume: {claimName: models, path: scenes-llava}}
  output: {volume: {claimName: stic, path: no-images}}
Y
reason stageonerun/no-images DataInvalid
message_contains stageonerun/no-images "holds no image"
k wait stageonerun/no-images --for=condition=Stalled --timeout=300s

# Not a model: exit code 64.
k apply --filename - <<Y
apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {name: no-model}
spec:
  model: {volume: {claimName: images, path: unlabelled}}
  images: {volume: {claimName: images, path: unlabelled}}
  output: {volume: {claimName: stic, path: no-model}}
Y
reason stageonerun/no-model ConfigInvalid
message_contains stageonerun/no-model "config.json: not found"

# An image that does not exist, and a node selector that no node matches.
stage_one no-image 'pod: {image: "stic.dev/none:0"}'
reason stageonerun/no-image ImagePullFailed
message_contains stageonerun/no-image "make the image available"
stage_one no-node 'pod: {nodeSelector: {stic.dev/none: "yes"}}'
reason stageonerun/no-node Unschedulable
k delete stageonerun no-image no-node

# A claim that is created later.
CLAIM=late stage_one patient
reason stageonerun/patient ClaimMissing
message_contains stageonerun/patient "PersistentVolumeClaim late does not exist"
"$repository/tests/cluster/volumes.sh" "$NAMESPACE" late
succeeded stageonerun/patient

# Too little memory: killed, retried up to the limit, and reported.
stage_one starved 'pod: {training: {resources: {limits: {memory: 24Mi}}}}' 'backoff: {limit: 1}'
reason stageonerun/starved OutOfMemory 300
message_contains stageonerun/starved "spec.pod.training.resources.limits.memory"
[ "$(k get pods --selector stic.dev/run=starved,stic.dev/step=train --output name | wc -l)" = 2 ] ||
  die "backoff.limit 1 must give two pods"
