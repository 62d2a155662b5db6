#!/usr/bin/env bash
# Inside a cluster: starts and stops one of its components, to test failures.
#
#   component.sh list
#   component.sh start|stop|kill|restart NAME      kill sends SIGKILL; each returns when it is done
#
# NAME is one of etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd, kubelet, kube-proxy.
# `start` does not wait until the component is ready; wait for what you need (kubectl get --raw /readyz).
set -euo pipefail
run=${CLUSTER_RUN:?component.sh runs inside a cluster that cluster.sh started}

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 64
}

request() { # COMMAND NAME
  local command=$1 name=$2 old
  [ -x "$run/components/$name" ] || usage
  old=$(cat "$run/pids/$name" 2>/dev/null || true)
  echo "$command $name" >"$run/control"
  # A start changes the recorded process id, a stop removes it.
  until case $command in
    start) [ -f "$run/pids/$name" ] && [ "$(cat "$run/pids/$name")" != "$old" ] ;;
    *) [ ! -f "$run/pids/$name" ] ;;
  esac; do sleep 0.05; done
}

case ${1:-} in
  list) for pid in "$run"/pids/*; do echo "${pid##*/} $(cat "$pid")"; done ;;
  start | stop | kill) request "$1" "${2:?NAME is missing}" ;;
  restart)
    request stop "${2:?NAME is missing}"
    request start "$2"
    ;;
  *) usage ;;
esac
