#!/usr/bin/env bash
# The API server killed and started again while a run is in each step.
set -euo pipefail
source "$(dirname "$0")/../../lib.sh"
source "$(dirname "$0")/../../node.sh"
claims
ready() { kubectl get --raw /readyz >/dev/null 2>&1; }
stage_one surprised
for step in prepare generate train; do
  process=$(caught surprised $step)
  component.sh kill kube-apiserver
  # The step is over before anybody can be told.
  let_go "$process"
  until_true "$step ends without an API server" 60 over "$process"
  component.sh start kube-apiserver
  until_true "the API server is back" 120 ready
done
same surprised
for step in prepare generate train; do
  [ "$(exits surprised $step)" = 0 ] || die "$step ended with $(exits surprised $step): something was done twice"
done
