# Sourced by the scripts of this folder: paths, and how they log and fail.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
# The folder is named by a hash of the pins, so other versions are built beside the old ones.
pins=$(cat "$here"/{kubernetes,containerd,tools}/go.{mod,sum} "$here"/tools/pause/main.go | sha256sum | cut -c1-12)
cache=${STIC_CACHE:-$HOME/.cache/stic}/cluster-$pins
bin=$cache/bin

log() { printf '%s\n' "cluster: $*" >&2; }
die() {
  log "error: $*"
  exit 1
}

# within SECONDS COMMAND...: repeats COMMAND until it succeeds.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || die "timed out: $*"
    sleep 0.1
  done
}
