#!/usr/bin/env bash
# Lints the GitHub workflows with the actionlint that actionlint/go.mod pins, which is compiled once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/go.sh"

version=$(sed -n 's|^require github.com/rhysd/actionlint v||p' "$here/actionlint/go.mod")
program=${STIC_CACHE:-$HOME/.cache/stic}/actionlint-$version
if [ ! -x "$program" ]; then
  mkdir -p "$(dirname "$program")"
  (cd "$here/actionlint" && go build -trimpath -o "$program.partial" github.com/rhysd/actionlint/cmd/actionlint)
  mv "$program.partial" "$program"
fi
cd "$here/.."
exec "$program" -color=false "$@"
