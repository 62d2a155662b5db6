#!/usr/bin/env bash
# Two runs that make the same artifact at once, and a run that is made again under its name while its old pod ends.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims

# Both are stopped in each step until the other is there too. They are watched before they are applied: the first could
# be over before the second is there.
caught_by() { cat "$E2E_SHARED/$NAMESPACE.$1"; }
for step in prepare generate train; do
  caught left $step >"$E2E_SHARED/$NAMESPACE.left" &
  left=$!
  caught right $step >"$E2E_SHARED/$NAMESPACE.right" &
  right=$!
  if [ $step = prepare ]; then
    for run in left right; do FOLDER=shared stage_one $run; done
  fi
  wait $left
  wait $right
  for run in left right; do let_go "$(caught_by $run)"; done
done
same left
same right
for kind in Prepared Preferences Adapter; do
  states="$(artifact stageonerun/left $kind state) $(artifact stageonerun/right $kind state)"
  [[ $states == "Created Reused" || $states == "Reused Created" ]] || die "of $kind the two runs say $states"
  [ "$(artifact stageonerun/left $kind volume.path)" = "$(artifact stageonerun/right $kind volume.path)" ] ||
    die "the two runs have two folders of $kind"
  [ "$(compgen -G "$(folder stic)/shared/${kind,,}-*" | wc -l)" = 1 ] || die "there are several folders of $kind"
  digest=$(artifact stageonerun/left $kind digest)
  (cd "$(compgen -G "$(folder stic)/shared/${kind,,}-*")" && grep -q "$digest" _SUCCESS.json &&
    sha256sum -- *.* | grep "^${digest#sha256:}" >/dev/null) || die "the folder of $kind is not whole"
done

# A third finds it all.
FOLDER=shared stage_one late
same late generate=0
[ "$(artifact stageonerun/late Adapter state)" = Reused ] || die "what is there was made again"

# Made again under its name while the old pod ends, which takes its time.
stage_one twice
old=$(caught twice generate)
pod=$(running twice generate)
k delete stageonerun twice
ending() { [ -n "$(k get pod "$pod" --output jsonpath='{.metadata.deletionTimestamp}')" ]; }
until_true "the old pod is told to end" 60 ending
stage_one twice
succeeded stageonerun/twice
ending || die "the old pod was gone before the new run was done"
let_go "$old"
until_true "the old pod ends" 60 is_gone pod "$pod"
same twice
