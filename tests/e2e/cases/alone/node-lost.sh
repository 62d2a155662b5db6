#!/usr/bin/env bash
# A node that no longer answers: the run names it and the taint that frees its pod, and with the taint it goes on.
set -euo pipefail
source "$(dirname "$0")/../../lib.sh"
source "$(dirname "$0")/../../node.sh"
claims
# The operator stands for one on another node: it stays when this one is given up.
operator --set "tolerations[0].operator=Exists"
taint=node.kubernetes.io/out-of-service=nodeshutdown:NoExecute
stage_one stranded
process=$(caught stranded train)
pod=$(running stranded train)
component.sh kill kubelet
# A node that is off computes nothing.
kill -KILL "$process"

lost() { [ "$(condition stageonerun/stranded Reconciling reason)" = NodeLost ]; }
until_true "the lost node is noticed" 90 lost
[ "$(condition stageonerun/stranded Reconciling status)" = True ] || die "a run on a lost node is not Reconciling"
says stageonerun/stranded "node node does not answer" Reconciling
says stageonerun/stranded "kubectl taint nodes node $taint" Reconciling
[ "$(jobs_of stranded train)" = 1 ] || die "another Job was made beside a pod that might still write"

# As the message says.
kubectl taint nodes node "$taint"
until_true "the pod of the lost node is removed" 90 is_gone pod "$pod"
component.sh start kubelet
kubectl wait node node --for=condition=Ready --timeout=90s
kubectl taint nodes node "$taint-"
same stranded
operator --set tolerations=null
