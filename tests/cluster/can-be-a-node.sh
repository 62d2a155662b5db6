#!/usr/bin/env bash
# Checks whether cluster.sh can start a node on this machine; if not, prints what is missing and exits with 1.
set -euo pipefail

no() {
  echo "$*"
  exit 1
}

[ "$(uname -s)" = Linux ] || no "a node needs Linux"
[ "$(id -u)" = 0 ] || no "a node needs root: run sudo make e2e rbac-test"
unshare --net --mount --pid --fork --kill-child true 2>/dev/null ||
  no "this machine does not allow namespaces, like a container without --privileged; use another machine"
unshare --mount bash -c 'mount -t tmpfs tmpfs /run' 2>/dev/null || no "this machine does not allow mounts; use another machine"
# As cluster.sh does it, in every mounted hierarchy.
awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/self/mounts | while read -r mounted; do
  mkdir "$mounted/stic-try-$$" 2>/dev/null || no "cannot create cgroups in $mounted; use another machine"
  rmdir "$mounted/stic-try-$$"
done
