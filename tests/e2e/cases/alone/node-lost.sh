#!/usr/bin/env bash
# A node stops responding: the run names it and the taint that releases its pod, and continues once the taint is set.
set -euo pipefail
source "$(dirname "$0")/../../lib.sh"
source "$(dirname "$0")/../../node.sh"
claims
# The operator stays on this node despite the taint, as if it ran on another node.
upgrade_operator --set "tolerations[0].operator=Exists"
taint=node.kubernetes.io/out-of-service=nodeshutdown:NoExecute
stage_one stranded
process=$(paused stranded train)
pod=$(running stranded train)
component.sh kill kubelet
# A node that is down computes nothing.
kill -KILL "$process"

lost() { [ "$(condition stageonerun/stranded Reconciling reason)" = NodeLost ]; }
until_true "the run reports NodeLost" 300 lost
[ "$(condition stageonerun/stranded Reconciling status)" = True ] || die "a run on a lost node is not Reconciling"
message_contains stageonerun/stranded "node node does not respond" Reconciling
message_contains stageonerun/stranded "kubectl taint nodes node $taint" Reconciling
[ "$(jobs_of stranded train)" = 1 ] || die "another Job was created while the old pod might still write"

# What the message advises.
kubectl taint nodes node "$taint"
until_true "the pod of the lost node is deleted" 300 is_gone pod "$pod"
component.sh start kubelet
kubectl wait node node --for=condition=Ready --timeout=300s
kubectl taint nodes node "$taint-"
same_adapter stranded
upgrade_operator --set tolerations=null
