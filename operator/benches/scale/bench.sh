#!/usr/bin/env bash
# What the controller costs for many StageOneRuns: a control plane of its own for each number, KWOK playing node and pods.
#
#   bench.sh [--rate N] [RUNS]...     100, 1,000 and 5,000 runs where none are named; one JSON object a line on stdout
#
# OPERATOR is another binary to measure. With root it asks for more than its share of a busy machine.
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
  # In a session of its own a command would be in another autogroup; cluster.sh's components are.
  "$repository/tests/cluster/cluster.sh" --control-plane ${LOGS:+--logs "$LOGS/$runs"} \
    python3 "$here/bench.py" "$runs" "${options[@]}" --operator "${OPERATOR:-$repository/target/images/bin/stic-operator}"
done
