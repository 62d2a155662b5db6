#!/usr/bin/env bash
# Whether cluster.sh can start a whole node here; if not, says what is missing.
set -euo pipefail

no() {
  echo "$*"
  exit 1
}

[ "$(uname -s)" = Linux ] || no "a node needs Linux"
[ "$(id -u)" = 0 ] || no "a node needs root: run sudo make e2e rbac-test"
unshare --net --mount --pid --fork --kill-child true 2>/dev/null ||
  no "this machine allows no namespaces, as in a container without --privileged; run it on a machine of your own"
unshare --mount bash -c 'mount -t tmpfs tmpfs /run' 2>/dev/null || no "this machine allows no mounts; run it on a machine of your own"
# As cluster.sh makes it, in every hierarchy that is mounted.
awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/self/mounts | while read -r mounted; do
  mkdir "$mounted/stic-try-$$" 2>/dev/null || no "the cgroups in $mounted cannot be written; run it on a machine of your own"
  rmdir "$mounted/stic-try-$$"
done
