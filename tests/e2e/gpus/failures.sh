#!/usr/bin/env bash
# A GPU fails at five moments of generate and at five of train. Each time the pod ends with exit code 76, the next one resumes, and
# the adapter has the same bytes as that of an undisturbed run.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
claims

# The profile of each step says how many kernels it launches.
coming_pods GPU_PROFILE=/volumes/stic/generate.json GPU_PROFILE=/volumes/stic/train.json
on_gpu undisturbed
succeeds stageonerun/undisturbed
wanted=$(adapter stageonerun/undisturbed)
launches() {
  python3 - "$(folder stic)/$1.json" <<'P'
import json, sys
profile = json.load(open(sys.argv[1]))
print(sum(kernel["launches"] for kernel in profile["kernels"].values()) + sum(product["calls"] for product in profile["gemms"]))
P
}
generate=$(launches generate)
train=$(launches train)
echo "$generate launches in generate, $train in train"

errors=(CUDA_ERROR_LAUNCH_FAILED CUDA_ERROR_ECC_UNCORRECTABLE)
for percent in 10 30 50 70 90; do
  error=${errors[$((percent / 10 % 4 / 2))]}
  run=failed-at-$percent
  # The first attempts of both steps.
  coming_pods "GPU_FAIL=launch:$((generate * percent / 100))=$error" '' "GPU_FAIL=launch:$((train * percent / 100))=$error" ''
  on_gpu "$run"
  succeeds "stageonerun/$run"
  for step in generate train; do
    [ "$(exits "$run" $step)" = "76 0" ] || die "the pods of $step of $run exited with $(exits "$run" $step)"
  done
  [ "$(adapter "stageonerun/$run")" = "$wanted" ] || die "the adapter of $run is $(adapter "stageonerun/$run") instead of $wanted"
  echo "$run: $error after $((generate * percent / 100)) and $((train * percent / 100)) launches: the same adapter"
done
