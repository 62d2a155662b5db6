#!/usr/bin/env bash
# The controller's cost for many StageOneRuns: each number has its own control plane, and KWOK simulates node and pods.
#
#   bench.sh [--rate N] [RUNS]...     default: 100, 1,000 and 5,000 runs; prints one JSON object per number
#
# OPERATOR is another program to measure. As root it raises its priority on a busy machine.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../../.." && pwd)
options=()
if [ "${1:-}" = --rate ]; then
  options+=(--rate "${2:?--rate needs a number}")
  shift 2
fi
[ $# -gt 0 ] || set -- 100 1000 5000
[ "$(id -u)" != 0 ] || echo -15 2>/dev/null >/proc/self/autogroup || true
"$repository/tests/cluster/build.sh" --kwok >/dev/null
for runs in "$@"; do
  # Not in a session of its own, which would be another autogroup; cluster.sh's components are in one.
  "$repository/tests/cluster/cluster.sh" --control-plane ${LOGS:+--logs "$LOGS/$runs"} \
    python3 "$here/bench.py" "$runs" "${options[@]}" --operator "${OPERATOR:-$repository/target/images/bin/stic-operator}"
done
