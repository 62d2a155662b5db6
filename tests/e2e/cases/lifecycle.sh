#!/usr/bin/env bash
# Reruns, deletions, and a StageTwoRun that is created before its StageOneRun.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
claims
stage_two early base
reason stagetworun/early StageOneNotSucceeded
message_contains stagetworun/early "StageOneRun base does not exist"
stage_one base
stage_two other base
succeeded stageonerun/base stagetworun/early stagetworun/other
[ "$(adapter stagetworun/early)" = "$(adapter stagetworun/other)" ] || die "two runs with the same recipe made different adapters"

# Applied again, nothing changes.
before=$(k get stageonerun base --output jsonpath='{.metadata.resourceVersion}')
stage_one base
[ "$(k get stageonerun base --output jsonpath='{.metadata.resourceVersion}')" = "$before" ] || die "applying the same manifest changed the run"

# A terminal status is final: a finished run whose Jobs are deleted does not start again.
k delete jobs --selector stic.dev/run=base
stage_one touched
succeeded stageonerun/touched
[ "$(jobs_of base prepare)" = 0 ] || die "a finished run started again"

# A higher spec.rerun starts it again; it makes the same bytes in another folder.
was=$(adapter stageonerun/base)
k patch stageonerun base --type=merge --patch '{"spec": {"rerun": 1}}'
k wait stageonerun/base --for=jsonpath='{.status.rerun}'=1 --timeout=300s
succeeded stageonerun/base
[ "$(adapter stageonerun/base)" = "$was" ] || die "the rerun made a different adapter"

# What decides a result is immutable, and the API server's answer says what to do.
if answer=$(k patch stageonerun base --type=merge --patch '{"spec": {"seed": 7}}' 2>&1); then die "the seed could be changed"; fi
[[ $answer == *seed* && $answer == *"new name"* ]] || die "the answer is: $answer"

# Deleting a run deletes its Jobs, and keeps the claim and its data.
k delete stageonerun touched
until_true "the Jobs of a deleted run are deleted" 300 has_no_job touched
k get persistentvolumeclaim stic >/dev/null
