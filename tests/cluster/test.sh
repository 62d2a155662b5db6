#!/usr/bin/env bash
# Tests the test cluster: two at once, components killed and restarted, nothing left behind.
#
#   test.sh --control-plane     only what needs no root
#   test.sh                     everything; as root
set -euo pipefail
source "$(dirname "$0")/lib.sh"

passed=0
pass() {
  passed=$((passed + 1))
  log "ok: $*"
}

# --- everything that a cluster could leave behind --------------------------------------------------------------------------
leftovers() {
  local process
  find "$cache/run" -mindepth 1 -maxdepth 1
  awk '{print $2}' /proc/self/mounts | grep -F "$cache" || true
  find /sys/fs/cgroup -maxdepth 3 -name 'stic-*' 2>/dev/null || true
  ls -d /var/lib/kubelet /var/lib/cni /run/containerd /var/log/containers 2>/dev/null || true
  for process in /proc/[0-9]*; do
    if tr '\0' '\n' 2>/dev/null <"$process/cmdline" | grep -qF "$cache/run/"; then tr '\0' ' ' <"$process/cmdline"; fi
  done
}
sysctls() { cat /proc/sys/vm/overcommit_memory /proc/sys/kernel/panic /proc/sys/kernel/panic_on_oops; }
nothing_left() {
  local now tries
  # Killed processes disappear with a delay.
  for tries in {1..100}; do
    now=$(leftovers)
    [ "$now" = "$before" ] && break
    sleep 0.1
  done
  [ "$now" = "$before" ] || die "left behind by $1: $(diff <(echo "$before") <(echo "$now"))"
  [ "$(sysctls)" = "$settings" ] || die "$1 changed the machine's settings"
  pass "$1 leaves nothing behind"
}

levels=(--control-plane)
if [ "${1:-}" != --control-plane ]; then
  [ "$(id -u)" = 0 ] || die "a node needs root: run as root, or run test.sh --control-plane"
  levels+=("")
  "$here/build.sh" >/dev/null
else
  "$here/build.sh" --control-plane >/dev/null
fi
mkdir -p "$cache/run"
before=$(leftovers)
settings=$(sysctls)

for level in "${levels[@]}"; do
  name="a ${level:-node}"
  name=${name/--/}

  # shellcheck disable=SC2086 # no level is no argument
  "$here/cluster.sh" $level "$here/test-inside.sh" "${level:-node}"
  pass "$name works, and its components can be killed and restarted"
  nothing_left "$name"

  status=0
  "$here/cluster.sh" $level bash -c 'exit 7' || status=$?
  [ $status = 7 ] || die "$name exited with $status instead of its command's 7"
  pass "$name exits with its command's exit code"

  # Each waits until the other is up.
  both=$(mktemp -d)
  meet() {
    "$here/cluster.sh" $level bash -c '
      kubectl create namespace '"$1"' && touch '"$both/$1"'
      for try in {1..1200}; do [ -f '"$both/$2"' ] && break; sleep 0.1; done
      [ -f '"$both/$2"' ] && ! kubectl get namespace '"$2"' 2>/dev/null'
  }
  meet first second &
  one=$!
  meet second first &
  two=$!
  wait $one || die "the first of two concurrent clusters failed"
  wait $two || die "the second of two concurrent clusters failed"
  rm -rf "$both"
  pass "two of $name run concurrently and are isolated from each other"
  nothing_left "two of $name"

  up=$(mktemp -u)
  "$here/cluster.sh" $level bash -c "touch $up; exec sleep 600" &
  killed=$!
  until [ -f "$up" ]; do kill -0 $killed; sleep 0.1; done
  rm "$up"
  kill -KILL $killed
  wait $killed 2>/dev/null || true
  # The next cluster removes the folder of the killed one.
  "$here/cluster.sh" --control-plane true
  nothing_left "a killed ${name#a }"

  "$here/cluster.sh" $level bash -c "touch $up; exec sleep 600" &
  ended=$!
  until [ -f "$up" ]; do kill -0 $ended; sleep 0.1; done
  rm "$up"
  kill -TERM $ended
  status=0
  wait $ended || status=$?
  [ $status = 143 ] || die "$name exited with $status after SIGTERM"
  nothing_left "$name after SIGTERM"
done
echo "$passed passed, 0 failed"
