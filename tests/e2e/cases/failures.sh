#!/usr/bin/env bash
# What goes wrong is said with its mend, and what is mended goes on.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
claims
# Bad data: exit code 65 fails the run at once, with what the trainer said.
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
says stageonerun/no-images "holds no image"
k wait stageonerun/no-images --for=condition=Stalled --timeout=60s

# A model that is none: 64.
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
says stageonerun/no-model "config.json: not found"

# An image that nobody has, and a node that nobody has.
stage_one no-image 'pod: {image: "stic.dev/none:0"}'
reason stageonerun/no-image ImagePullFailed
says stageonerun/no-image "make the image available"
stage_one no-node 'pod: {nodeSelector: {stic.dev/none: "yes"}}'
reason stageonerun/no-node Unschedulable
k delete stageonerun no-image no-node

# A claim that comes late.
CLAIM=late stage_one patient
reason stageonerun/patient ClaimMissing
says stageonerun/patient "PersistentVolumeClaim late does not exist"
"$repository/tests/cluster/volumes.sh" "$NAMESPACE" late
succeeded stageonerun/patient

# Too little memory: killed, tried again until the limit, and said so.
stage_one starved 'pod: {training: {resources: {limits: {memory: 24Mi}}}}' 'backoff: {limit: 1}'
reason stageonerun/starved TrainerFailed 300
says stageonerun/starved "memory ran out"
[ "$(k get pods --selector stic.dev/run=starved,stic.dev/step=train --output name | wc -l)" = 2 ] ||
  die "a limit of 1 means two pods"
