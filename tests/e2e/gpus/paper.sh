#!/usr/bin/env bash
# The manifests of the paper and of its ablations, cut to the toy (cut.py), reach Succeeded: in the image for GPUs and in BF16, with
# `prepare` in the image for CPUs.
#
#   MANIFESTS   files to apply instead: examples/paper/llava-v1.6-mistral-7b.yaml is the paper's main result
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$repository"

# The claims that the manifests name, with the toy where they expect the data.
toy=$(mktemp -d)
trap 'rm -rf "$toy"' EXIT
mkdir -p "$toy"/{models,coco,llava/images,povid}
for model in llava-1.5-7b-hf llava-v1.6-mistral-7b-hf llava-v1.6-vicuna-7b-hf; do
  cp -r "$volumes/models/scenes-llava" "$toy/models/$model"
done
cp -r "$volumes/images/unlabelled" "$toy/coco/train2014"
# The toy answers with a word. As what it learned, this would leave SPIN nothing to learn.
sed -E 's/"value": "([a-z0-9]+)"/"value": "The answer is \1."/' "$volumes/instructions/instructions.json" >"$toy/llava/llava_v1_5_mix665k.json"
cp -r "$volumes/instructions/images" "$toy/llava/images/images"
for image in "$toy"/coco/train2014/*.jpg; do
  echo "{\"id\": \"${image##*/}\", \"image\": \"${image##*/}\", \"prompt\": \"What is it?\", \"chosen\": \"A red circle.\", \"rejected\": \"A blue square.\"}"
done >"$toy/povid/pairs.jsonl"
claims_of_toy=()
for claim in models coco llava povid; do claims_of_toy+=("$claim=$toy/$claim"); done
tests/cluster/volumes.sh "$NAMESPACE" "${claims_of_toy[@]}" stic

for file in ${MANIFESTS:-examples/paper/*.yaml examples/ablations/*.yaml}; do
  k create --dry-run=client --output json --filename "$file" | python3 tests/e2e/gpus/cut.py | k apply --filename -
done
runs=$(k get stic --output name)
for run in $runs; do
  succeeds "$run"
  precision=$(k get "$run" --output jsonpath='{.status.resolved.precision}')
  [ "$precision" = BF16 ] || die "$run computed in $precision"
done
echo "$(wc -w <<<"$runs") runs succeeded"

container='{range .items[*]}{.spec.containers[0].image} {.spec.containers[0].resources.limits.nvidia\.com/gpu}{"\n"}{end}'
containers() { k get pods --selector "$1" --output jsonpath="$container" | sort -u; }
[ "$(containers stic.dev/step=prepare)" = "$(image_of_flag trainer-image) " ] ||
  die "prepare ran in $(containers stic.dev/step=prepare)"
[ "$(containers 'stic.dev/step!=prepare')" = "$(image_of_flag trainer-gpu-image) 1" ] ||
  die "the other steps ran in $(containers 'stic.dev/step!=prepare')"
