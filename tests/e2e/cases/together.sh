#!/usr/bin/env bash
# Two runs that make the same artifact concurrently, and a run that is created again under its name while its old pod terminates.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims

# Each is paused in every step until the other is in it too. Both are watched before they are applied, because the first could
# end before the second starts.
paused_process() { cat "$E2E_SHARED/$NAMESPACE.$1"; }
for step in prepare generate train; do
  paused left $step >"$E2E_SHARED/$NAMESPACE.left" &
  left=$!
  paused right $step >"$E2E_SHARED/$NAMESPACE.right" &
  right=$!
  if [ $step = prepare ]; then
    for run in left right; do FOLDER=shared stage_one $run; done
  fi
  wait $left
  wait $right
  for run in left right; do continue_process "$(paused_process $run)"; done
done
same_adapter left
same_adapter right
for kind in Prepared Preferences Adapter; do
  states="$(artifact stageonerun/left $kind state) $(artifact stageonerun/right $kind state)"
  [[ $states == "Created Reused" || $states == "Reused Created" ]] || die "the states of $kind are $states"
  [ "$(artifact stageonerun/left $kind volume.path)" = "$(artifact stageonerun/right $kind volume.path)" ] ||
    die "the two runs use different folders of $kind"
  [ "$(compgen -G "$(folder stic)/shared/${kind,,}-*" | wc -l)" = 1 ] || die "there is more than one folder of $kind"
  digest=$(artifact stageonerun/left $kind digest)
  (cd "$(compgen -G "$(folder stic)/shared/${kind,,}-*")" && grep -q "$digest" _SUCCESS.json &&
    sha256sum -- *.* | grep "^${digest#sha256:}" >/dev/null) || die "the folder of $kind is incomplete"
done

# A third run reuses everything.
FOLDER=shared stage_one late
same_adapter late generate=0
[ "$(artifact stageonerun/late Adapter state)" = Reused ] || die "the existing adapter was not reused"

# Created again under its name while the old pod is still terminating.
stage_one twice
old=$(paused twice generate)
pod=$(running twice generate)
k delete stageonerun twice
terminating() { [ -n "$(k get pod "$pod" --output jsonpath='{.metadata.deletionTimestamp}')" ]; }
until_true "the old pod terminates" 300 terminating
stage_one twice
succeeded stageonerun/twice
terminating || die "the old pod ended before the new run did"
continue_process "$old"
until_true "the old pod is deleted" 300 is_gone pod "$pod"
same_adapter twice
