# Sourced by the scripts of this folder: where things are, and how a missing one is reported.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
# The pins name the folder: other versions are built beside the old ones.
pins=$(cat "$here"/{kubernetes,containerd,tools}/go.{mod,sum} "$here"/tools/pause/main.go | sha256sum | cut -c1-12)
cache=${STIC_CACHE:-$HOME/.cache/stic}/cluster-$pins
bin=$cache/bin

say() { printf '%s\n' "cluster: $*" >&2; }
die() {
  say "error: $*"
  exit 1
}
