#!/usr/bin/env bash
# The rows of the paper and its ablations, cut to the toy (cut.py), reach Succeeded: in the image for GPUs and in BF16, with
# `prepare` and `score` in the image for CPUs.
#
#   MANIFESTS   what to apply instead, folders of rows or files: examples/paper/table-1/llava-1.6 is the paper's main result
set -euo pipefail
source "$(dirname "$0")/lib.sh"
cd "$repository"

# The claims that the manifests name, with the toy where they expect the data.
toy=$(mktemp -d)
trap 'rm -rf "$toy"' EXIT
mkdir -p "$toy"/{models,coco,llava/images,povid,benchmarks}
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
cp -r "$volumes/heldout" "$toy/benchmarks/scenes"
claims_of_toy=()
for claim in models coco llava povid benchmarks; do claims_of_toy+=("$claim=$toy/$claim"); done
tests/cluster/volumes.sh "$NAMESPACE" "${claims_of_toy[@]}" stic

# Table 2 is one of table-1's rows. seeds would run some of these again, with nothing but another seed.
rows=(table-1 table-1/llava-1.6-vicuna table-1/povid table-3 figure-6 figure-7 official-compat)
for manifest in ${MANIFESTS:-"${rows[@]/#/examples/paper/}" examples/ablations/*.yaml}; do
  if [ -d "$manifest" ]; then source=--kustomize; else source=--filename; fi
  k create --dry-run=client --output json $source "$manifest" | python3 tests/e2e/gpus/cut.py | k apply --filename -
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
without='stic.dev/step in (prepare,score)'
with='stic.dev/step notin (prepare,score)'
[ "$(containers "$without")" = "$(image_of_flag trainer-image) " ] || die "prepare and score ran in $(containers "$without")"
[ "$(containers "$with")" = "$(image_of_flag trainer-gpu-image) 1" ] || die "the other steps ran in $(containers "$with")"
