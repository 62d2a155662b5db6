#!/usr/bin/env bash
# Reruns, deletions, and a stage two before, with and after its stage one.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
claims
stage_two early base
reason stagetworun/early StageOneNotSucceeded
says stagetworun/early "StageOneRun base does not exist"
stage_one base
stage_two other base
succeeded stageonerun/base stagetworun/early stagetworun/other
[ "$(adapter stagetworun/early)" = "$(adapter stagetworun/other)" ] || die "two runs of one recipe made two adapters"

# Applied again, nothing changes.
before=$(k get stageonerun base --output jsonpath='{.metadata.resourceVersion}')
stage_one base
[ "$(k get stageonerun base --output jsonpath='{.metadata.resourceVersion}')" = "$before" ] || die "an apply of the same changed the run"

# Terminal is terminal: a finished run whose Jobs are gone does not start again.
k delete jobs --selector stic.dev/run=base
stage_one touched
succeeded stageonerun/touched
[ "$(jobs_of base prepare)" = 0 ] || die "a finished run started again"

# A raised rerun does, and makes a folder of its own with the same bytes.
was=$(adapter stageonerun/base)
k patch stageonerun base --type=merge --patch '{"spec": {"rerun": 1}}'
k wait stageonerun/base --for=jsonpath='{.status.rerun}'=1 --timeout=60s
succeeded stageonerun/base
[ "$(adapter stageonerun/base)" = "$was" ] || die "a rerun made other bytes"

# A result cannot change under its name, and the answer says what to do.
if answer=$(k patch stageonerun base --type=merge --patch '{"spec": {"seed": 7}}' 2>&1); then die "the seed could be changed"; fi
[[ $answer == *seed* && $answer == *"new name"* ]] || die "the answer is: $answer"

# Deleted: what it ran goes, the claim and what is on it stay.
k delete stageonerun touched
until_true "the Jobs of a deleted run go" 60 has_no_job touched
k get persistentvolumeclaim stic >/dev/null
