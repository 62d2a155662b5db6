#!/usr/bin/env bash
# Files that change after they were written: the step that reads them fails, and names the file, both digests and the remedy.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
file_of() { # KIND/NAME KIND PAYLOAD
  echo "$(folder "$(artifact "$1" "$2" volume.claimName)")/$(artifact "$1" "$2" volume.path)/$3"
}
corrupt() { printf 'X' | dd of="$1" bs=1 seek=$((($(stat --format %s "$1")) / 2)) conv=notrunc status=none; }
refused() { # KIND/NAME FILE RECORDED
  reason "$1" DataInvalid
  message_contains "$1" "$2"
  message_contains "$1" "${3:0:20}"
  k wait "$1" --for=condition=Stalled --timeout=300s
}

stage_one base
# Between two steps: suspended during one, corrupted, and resumed.
suspend_in() { # RUN STEP
  local process
  process=$(paused "$1" "$2")
  suspend "stageonerun/$1" true
  reason "stageonerun/$1" Suspended
  end_with TERM "$process"
  until_true "no pod of $1 is left" 300 has_no_pod "$1"
}
stage_one stale
suspend_in stale generate
items=$(file_of stageonerun/stale Prepared items.jsonl)
corrupt "$items"
suspend stageonerun/stale false
refused stageonerun/stale items.jsonl "$(artifact stageonerun/stale Prepared digest)"
message_contains stageonerun/stale "raised rerun"

# Sealed data that the next attempt of the sealing step finds corrupted.
stage_one sealed
process=$(paused sealed train --line-in "$(folder stic)/sealed/preferences-*/preferences.jsonl")
end_with KILL "$process"
corrupt "$(compgen -G "$(folder stic)/sealed/preferences-*/preferences.jsonl")"
reason stageonerun/sealed DataInvalid
message_contains stageonerun/sealed preferences.jsonl
message_contains stageonerun/sealed "raised rerun"

# The remedy works.
for run in stale sealed; do rerun stageonerun/$run 1; done
for run in stale sealed; do
  k wait stageonerun/$run --for=jsonpath='{.status.rerun}'=1 --timeout=300s
done
same_adapter stale prepare=2 generate=2 train=1
same_adapter sealed prepare=2 generate=2 train=2

# An adapter that differs from the one that its run recorded.
succeeded stageonerun/base
weights=$(file_of stageonerun/base Adapter adapter_model.safetensors)
cp "$weights" "$weights.kept"
corrupt "$weights"
stage_two reads base
refused stagetworun/reads adapter_model.safetensors "$(adapter stageonerun/base)"
message_contains stagetworun/reads "raised rerun"
# The restored adapter is accepted.
mv "$weights.kept" "$weights"
rerun stagetworun/reads 1
k wait stagetworun/reads --for=jsonpath='{.status.rerun}'=1 --timeout=300s
succeeded stagetworun/reads
