#!/usr/bin/env bash
# Inside a cluster: starts and ends one of its components, for tests of failures.
#
#   component.sh list
#   component.sh start|stop|kill|restart NAME      kill is SIGKILL; each returns when it is done
#
# NAME is one of etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd, kubelet, kube-proxy.
# `start` does not wait for the component to be ready: wait for what you need of it (kubectl get --raw /readyz).
set -euo pipefail
run=${CLUSTER_RUN:?component.sh runs inside a cluster that cluster.sh started}

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 64
}

tell() { # COMMAND NAME
  local command=$1 name=$2 old
  [ -x "$run/components/$name" ] || usage
  old=$(cat "$run/pids/$name" 2>/dev/null || true)
  echo "$command $name" >"$run/control"
  # A start gives another id, an end takes the id away.
  until case $command in
    start) [ -f "$run/pids/$name" ] && [ "$(cat "$run/pids/$name")" != "$old" ] ;;
    *) [ ! -f "$run/pids/$name" ] ;;
  esac; do sleep 0.05; done
}

case ${1:-} in
  list) for pid in "$run"/pids/*; do echo "${pid##*/} $(cat "$pid")"; done ;;
  start | stop | kill) tell "$1" "${2:?NAME is missing}" ;;
  restart)
    tell stop "${2:?NAME is missing}"
    tell start "$2"
    ;;
  *) usage ;;
esac
