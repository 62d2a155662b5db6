#!/usr/bin/env bash
# The operator deleted, its leader killed among two replicas, and upgraded, each with runs under way.
set -euo pipefail
source "$(dirname "$0")/../../lib.sh"
source "$(dirname "$0")/../../node.sh"
claims

# Deleted at once, as a drained node does it.
stage_one orphan
process=$(caught orphan generate)
o delete pod --selector app.kubernetes.io/name=stic-operator --grace-period=0 --force
let_go "$process"
same orphan

# Of two replicas one leads. It is killed and its pod gone, so that nobody else may hold its lease on; another takes over.
operator --set replicas=2
was=$(leader)
stage_one led
process=$(caught led generate)
leads=
for candidate in $(pgrep --exact stic-operator); do
  [ "$(cat "/proc/$candidate/root/etc/hostname" 2>/dev/null)" != "$was" ] || leads=$candidate
done
[ -n "$leads" ] || die "no process of the leader $was"
# It hears nothing of the deletion.
kill -STOP "$leads"
o delete pod "$was" --grace-period=0 --force --wait=false
kill -KILL "$leads"
let_go "$process"
same led
[ "$(leader)" != "$was" ] || die "the killed leader still leads"
operator --set replicas=1

# Upgraded to another trainer and other settings: what is under way keeps what it started with.
images() { ctr --address "$CLUSTER_RUN/containerd/socket" --namespace k8s.io images "$@"; }
images tag "stic.dev/stic-trainer:$version" stic.dev/stic-trainer:next >/dev/null
stage_one underway
process=$(caught underway generate)
operator --set trainer.image.tag=next --set config.concurrency=2
stage_one fresh
let_go "$process"
same underway
same fresh
images_of() { k get pods --selector "stic.dev/run=$1" --output jsonpath='{.items[*].spec.containers[0].image}' | tr ' ' '\n' | sort -u; }
for run in underway=$version fresh=next; do
  [ "$(images_of "${run%=*}")" = "stic.dev/stic-trainer:${run#*=}" ] || die "${run%=*} ran $(images_of "${run%=*}")"
  [ "$(k get stageonerun "${run%=*}" --output jsonpath='{.status.resolved.trainerImage}')" = "stic.dev/stic-trainer:${run#*=}" ] ||
    die "the status of ${run%=*} names another image"
done
operator --set trainer.image.tag= --set config.concurrency=null
