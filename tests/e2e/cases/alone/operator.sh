#!/usr/bin/env bash
# The operator's pod is deleted, the leader of two replicas is killed, and the operator is upgraded, each during a run.
set -euo pipefail
source "$(dirname "$0")/../../lib.sh"
source "$(dirname "$0")/../../node.sh"
claims

# Deleted without a grace period.
stage_one orphan
process=$(paused orphan generate)
o delete pod --selector app.kubernetes.io/name=stic-operator --grace-period=0 --force
continue_process "$process"
same_adapter orphan

# The leader of two replicas is killed and its pod deleted, so that it cannot renew its lease; the other takes over.
upgrade_operator --set replicas=2
was=$(leader)
stage_one led
process=$(paused led generate)
leader_process=
for candidate in $(pgrep --exact stic-operator); do
  [ "$(cat "/proc/$candidate/root/etc/hostname" 2>/dev/null)" != "$was" ] || leader_process=$candidate
done
[ -n "$leader_process" ] || die "found no process of the leader $was"
# Stopped, so that it does not notice the deletion.
kill -STOP "$leader_process"
o delete pod "$was" --grace-period=0 --force --wait=false
kill -KILL "$leader_process"
continue_process "$process"
same_adapter led
[ "$(leader)" != "$was" ] || die "the killed leader still holds the lease"
upgrade_operator --set replicas=1

# Upgraded to another trainer and other settings: a run under way keeps what it started with.
images() { ctr --address "$CLUSTER_RUN/containerd/socket" --namespace k8s.io images "$@"; }
images tag "stic.dev/stic-trainer:$version" stic.dev/stic-trainer:next >/dev/null
stage_one underway
process=$(paused underway generate)
upgrade_operator --set trainer.image.tag=next --set config.concurrency=2
stage_one fresh
continue_process "$process"
same_adapter underway
same_adapter fresh
images_of() { k get pods --selector "stic.dev/run=$1" --output jsonpath='{.items[*].spec.containers[0].image}' | tr ' ' '\n' | sort -u; }
for run in underway=$version fresh=next; do
  [ "$(images_of "${run%=*}")" = "stic.dev/stic-trainer:${run#*=}" ] || die "the pods of ${run%=*} used $(images_of "${run%=*}")"
  [ "$(k get stageonerun "${run%=*}" --output jsonpath='{.status.resolved.trainerImage}')" = "stic.dev/stic-trainer:${run#*=}" ] ||
    die "status.resolved.trainerImage of ${run%=*} is another image"
done
upgrade_operator --set trainer.image.tag= --set config.concurrency=null
