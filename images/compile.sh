#!/usr/bin/env bash
# Compiles programs of this workspace for images: static and stripped, the operator fully optimized.
#
#   compile.sh FOLDER PROGRAM...
#
# With the features of the whole workspace and of its tests, which a test has to be named for, and the wrapper of
# `make build`: the trainer, and what both depend on, is compiled for tests and images once. proptest asks getrandom, on
# which candle stands, for more than candle does.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
  echo "images: error: $*" >&2
  exit 1
}

[ "$(uname -s)" = Linux ] || die "static Linux binaries are built on Linux; elsewhere: docker build -f trainer/Dockerfile ."
host=$(rustc -vV | sed -n 's/^host: //p')
case $host in
  *-linux-gnu) ;;
  *) die "the host is $host, and static binaries are tested with *-linux-gnu only: install that toolchain of Rust" ;;
esac
folder=${1:?compile.sh FOLDER PROGRAM...}
shift
RUSTC_WORKSPACE_WRAPPER=$PWD/images/rustc-static.sh cargo build --release --locked --workspace \
  "${@/#/--bin=}" --test=dependency_directions \
  --config profile.release.package.stic-operator.opt-level=3 --config profile.release.package.stic-crds.opt-level=3
install -D -s -t "$folder" "${@/#/target/release/}"
