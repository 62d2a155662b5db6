#!/usr/bin/env bash
# Files that were changed after they were made: the step that reads them fails with the file, both digests and the mend.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
file_of() { # KIND/NAME KIND PAYLOAD
  echo "$(folder "$(artifact "$1" "$2" volume.claimName)")/$(artifact "$1" "$2" volume.path)/$3"
}
spoil() { printf 'X' | dd of="$1" bs=1 seek=$((($(stat --format %s "$1")) / 2)) conv=notrunc status=none; }
refused() { # KIND/NAME FILE RECORDED
  reason "$1" DataInvalid
  says "$1" "$2"
  says "$1" "${3:0:20}"
  k wait "$1" --for=condition=Stalled --timeout=60s
}

stage_one base
# Between two steps: held while one runs, spoiled, and let go on.
held() { # RUN STEP
  local process
  process=$(caught "$1" "$2")
  suspend "stageonerun/$1" true
  reason "stageonerun/$1" Suspended
  ended TERM "$process"
  until_true "no pod of $1 is left" 60 has_no_pod "$1"
}
stage_one stale
held stale generate
items=$(file_of stageonerun/stale Prepared items.jsonl)
spoil "$items"
suspend stageonerun/stale false
refused stageonerun/stale items.jsonl "$(artifact stageonerun/stale Prepared digest)"
says stageonerun/stale "raised rerun"

# What was sealed and is found spoiled by the next attempt at the step that sealed it.
stage_one sealed
process=$(caught sealed train --line-in "$(folder stic)/sealed/preferences-*/preferences.jsonl")
ended KILL "$process"
spoil "$(compgen -G "$(folder stic)/sealed/preferences-*/preferences.jsonl")"
reason stageonerun/sealed DataInvalid
says stageonerun/sealed preferences.jsonl
says stageonerun/sealed "raised rerun"

# The mend does mend.
for run in stale sealed; do rerun stageonerun/$run 1; done
for run in stale sealed; do
  k wait stageonerun/$run --for=jsonpath='{.status.rerun}'=1 --timeout=60s
done
same stale prepare=2 generate=2 train=1
same sealed prepare=2 generate=2 train=2

# An adapter that is not the one that its run recorded.
succeeded stageonerun/base
weights=$(file_of stageonerun/base Adapter adapter_model.safetensors)
cp "$weights" "$weights.kept"
spoil "$weights"
stage_two reads base
refused stagetworun/reads adapter_model.safetensors "$(adapter stageonerun/base)"
says stagetworun/reads "raised rerun"
# Restored, it serves.
mv "$weights.kept" "$weights"
rerun stagetworun/reads 1
k wait stagetworun/reads --for=jsonpath='{.status.rerun}'=1 --timeout=60s
succeeded stagetworun/reads
