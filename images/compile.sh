#!/usr/bin/env bash
# Compiles programs of this workspace for images of users: static, stripped, with the profile `release`.
#
#   compile.sh FOLDER PROGRAM...
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
  echo "images: error: $*" >&2
  exit 1
}

[ "$(uname -s)" = Linux ] || die "static Linux programs are built on Linux; elsewhere run docker build -f trainer/Dockerfile ."
host=$(rustc -vV | sed -n 's/^host: //p')
case $host in
  *-linux-gnu) ;;
  *) die "the host is $host, and static programs are tested with *-linux-gnu only: install that Rust toolchain" ;;
esac
folder=${1:?compile.sh FOLDER PROGRAM...}
shift
[ $# -gt 0 ] || die "no program is named: compile.sh FOLDER PROGRAM..."
# Both packages are selected whichever programs are requested: cargo chooses features by the selection, and compiles once this way.
RUSTC_WORKSPACE_WRAPPER=$PWD/images/rustc-static.sh cargo build --release --locked \
  --package stic-operator --package stic-trainer "${@/#/--bin=}"
install -D -s -t "$folder" "${@/#/${CARGO_TARGET_DIR:-target}/release/}"
for program in "$@"; do
  ! grep -q STIC_FAILPOINT "$folder/$program" || die "$program has the failpoints of the tests: a dependency must not enable stic-operator/failpoints"
done
