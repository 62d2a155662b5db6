#!/usr/bin/env bash
# Runs a cargo subcommand in the version that requirements.txt pins.
#
#   cargo.sh nextest|deny|shear ARGS...
#   cargo.sh --install                     only makes sure that all of them are there
#
# A program of that version on PATH is used as it is. Otherwise a wheel with the prebuilt program is installed, or, where
# there is none for this machine, the program is built from source; both once, below STIC_CACHE (~/.cache/stic).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/requirements.txt
cache=${STIC_CACHE:-$HOME/.cache/stic}
tools=$cache/tools-$(sha256sum "$requirements" | cut -c1-12)

version_of() { sed -n "s/^astral-dev-toolchain-cargo-$1==//p" "$requirements"; }

# The path of cargo-NAME in the pinned version, if it is here already.
find_program() {
  local candidate version
  for candidate in "$(command -v "cargo-$1" || true)" "$tools/bin/cargo-$1"; do
    # nextest answers as a subcommand only.
    # Not in a pipe: grep would close it early, and the program would abort.
    if [ -x "$candidate" ] && version=$("$candidate" "$1" --version 2>/dev/null) &&
      grep -qwF "$(version_of "$1")" <<<"$version"; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

install_programs() {
  mkdir -p "$cache"
  # Two that start at once install once.
  exec 8>"$tools.lock"
  flock 8
  local name
  for name in nextest deny shear; do
    find_program $name >/dev/null || break
    [ $name != shear ] || return 0
  done
  echo "tools: installing $(sed -n 's/^astral-dev-toolchain-//p' "$requirements" | tr '\n' ' ')" >&2
  if "${PYTHON:-python3}" -m venv "$tools" && "$tools/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"; then
    return
  fi
  echo "tools: no prebuilt programs for this machine; building them" >&2
  for name in nextest deny shear; do
    find_program $name >/dev/null || cargo install --locked --root "$tools" --version "$(version_of $name)" "cargo-$name"
  done
}

name=${1:?usage: cargo.sh SUBCOMMAND ARGS...}
if [ "$name" = --install ]; then
  install_programs
  exit
fi
[ -n "$(version_of "$name")" ] || {
  echo "tools: error: $name is not in $requirements" >&2
  exit 64
}
program=$(find_program "$name") || {
  install_programs
  program=$(find_program "$name") || {
    echo "tools: error: cargo-$name $(version_of "$name") could not be installed: run cargo install --locked --version $(version_of "$name") cargo-$name" >&2
    exit 1
  }
}
exec "$program" "$@"
