#!/usr/bin/env bash
# Runs fuzz targets one after another, each for so many seconds:
#
#   fuzz/run.sh SECONDS [TARGET...]
#
# All targets without a TARGET. A target that fails does not stop those after it. SANITIZER=address slows them down
# three times and is for `unsafe` code in dependencies; the readers themselves are safe Rust.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=$1
shift
targets=("$@")
fuzz=(cargo "+${NIGHTLY:-nightly}" fuzz)
sanitizer=(--sanitizer "${SANITIZER:-none}")
[[ ${#targets[@]} -gt 0 ]] || mapfile -t targets < <("${fuzz[@]}" list)

"${fuzz[@]}" build "${sanitizer[@]}"

# Each input writes its files, thousands of times a second: into memory, where there is a file system of it.
memory=/dev/shm
[[ -w $memory ]] || memory=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d "$memory/stic-fuzz.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

failed=()
for target in "${targets[@]}"; do
  echo "== $target"
  mkdir -p "fuzz/corpus/$target"
  "${fuzz[@]}" run "${sanitizer[@]}" "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 ||
    failed+=("$target")
done
if [[ ${#failed[@]} -gt 0 ]]; then
  echo "fuzz: ${failed[*]} failed; the inputs are in fuzz/artifacts. See docs/development/fuzzing.md." >&2
  exit 1
fi
