#!/usr/bin/env bash
# The API server is killed and restarted during each step of a run.
set -euo pipefail
source "$(dirname "$0")/../../lib.sh"
source "$(dirname "$0")/../../node.sh"
claims
ready() { kubectl get --raw /readyz >/dev/null 2>&1; }
stage_one unwatched
for step in prepare generate train; do
  process=$(paused unwatched $step)
  component.sh kill kube-apiserver
  # The step ends while nobody can be notified.
  continue_process "$process"
  until_true "$step ends without an API server" 300 has_ended "$process"
  component.sh start kube-apiserver
  until_true "the API server is back" 300 ready
done
same_adapter unwatched
for step in prepare generate train; do
  [ "$(exits unwatched $step)" = 0 ] || die "$step exited with $(exits unwatched $step): it ran twice"
done
