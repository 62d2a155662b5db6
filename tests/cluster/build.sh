#!/usr/bin/env bash
# Builds the cluster's programs from the Go modules pinned beside this file, once, into
# $HOME/.cache/stic/cluster-HASH (STIC_CACHE replaces $HOME/.cache/stic), and prints that folder.
#
#   build.sh                   control plane, node, helm, kubeconform, schemas
#   build.sh --control-plane   without kubelet, kube-proxy and containerd, which only a node needs; needs no root
#   build.sh --kwok            kwok only, for benchmarks; no test needs it
#   build.sh --kueue           Kueue's manager and its chart, into a folder of their own
#   build.sh --device-plugin   the device plugin for GPUs, into a folder of its own
set -euo pipefail
source "$(dirname "$0")/lib.sh"

node=yes
case ${1:-} in
  '') ;;
  --control-plane) node=no ;;
  --kwok) node=no ;;
  --kueue)
    node=no
    cache=${cache%/*}/kueue-$(cat "$here"/kueue/go.{mod,sum} | sha256sum | cut -c1-12)
    bin=$cache/bin
    ;;
  --device-plugin)
    node=no
    cache=${cache%/*}/device-plugin-$(cat "$here"/kubernetes/{go.mod,go.sum,device-plugin/main.go} | sha256sum | cut -c1-12)
    bin=$cache/bin
    ;;
  *) die "usage: build.sh [--control-plane | --kwok | --kueue | --device-plugin]" ;;
esac

mkdir -p "$bin"
# A second build waits, and then finds everything built.
exec 8>"$cache/lock"
flock 8

# --- Debian packages --------------------------------------------------------------------------------------------
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
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || die "programs are missing; as root, run: $install"
  log "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}"; } >"$cache/apt.log" 2>&1 ||
    die "$install failed: $(tail -n 3 "$cache/apt.log")"
fi

# --- Go ---------------------------------------------------------------------------------------------------------
source "$repository/tools/go.sh"
# The compiler's processes are short: collecting garbage seldom is faster.
export GOGC=400
# A third of the compile time would go to inlining and to debug information, which is not linked.
compiler_flags='all=-dwarf=false -l'
# build FOLDER "FLAGS" PACKAGE...: those programs that are not there yet.
build() {
  local folder=$1 flags=$2 package wanted=() started=$SECONDS
  shift 2
  for package in "$@"; do [ -x "$bin/${package##*/}" ] || wanted+=("$package"); done
  [ ${#wanted[@]} -gt 0 ] || return 0
  log "building ${wanted[*]##*/} (once; takes minutes)"
  # Moved into place when complete, so bin contains no half-linked program.
  rm -rf "$cache/new"
  mkdir "$cache/new"
  # shellcheck disable=SC2086 # the flags are several words
  (cd "$here/$folder" && eval "go build -trimpath -gcflags='$compiler_flags' $flags -o '$cache/new/' ${wanted[*]}") >&2
  mv "$cache"/new/* "$bin/"
  rmdir "$cache/new"
  log "built ${wanted[*]##*/} in $((SECONDS - started)) s"
}

kubernetes_flags() {
  local version minor variable=k8s.io/component-base/version
  # A build without these is version v0.0.0, and clients and servers refuse each other.
  version=$(sed -n 's|^.*k8s.io/kubernetes v|v|p' "$here/kubernetes/go.mod")
  minor=$(cut -d. -f2 <<<"$version")
  echo "-tags providerless -ldflags '-s -w -X $variable.gitVersion=$version -X $variable.gitMajor=1 -X $variable.gitMinor=$minor'"
}
if [ "${1:-}" = --kwok ]; then
  build tools "-ldflags '-s -w'" sigs.k8s.io/kwok/cmd/kwok
  echo "$cache"
  exit
fi
if [ "${1:-}" = --device-plugin ]; then
  # In the module of the kubelet, with which it shares the protocol.
  build kubernetes "-ldflags '-s -w'" ./device-plugin
  echo "$cache"
  exit
fi
if [ "${1:-}" = --kueue ]; then
  # A manager without this calls itself v0.0.0-main.
  version=$(sed -n 's|^require sigs.k8s.io/kueue v|v|p' "$here/kueue/go.mod")
  build kueue "-p 1 -ldflags '-s -w -X sigs.k8s.io/kueue/pkg/version.GitVersion=$version'" sigs.k8s.io/kueue/cmd/kueue
  if [ ! -d "$cache/chart" ]; then
    sources=$(cd "$here/kueue" && go list -m -f '{{.Dir}}' sigs.k8s.io/kueue)
    rm -rf "$cache/chart.new"
    cp -r --no-preserve=mode "$sources/charts/kueue" "$cache/chart.new"
    mv "$cache/chart.new" "$cache/chart"
  fi
  echo "$cache"
  exit
fi
kubernetes=(kube-apiserver kube-controller-manager kube-scheduler kubectl)
[ $node = no ] || kubernetes+=(kubelet kube-proxy)
# helm in the same module: it shares three quarters of its dependencies. 4.1, because later versions need newer ones than
# Kubernetes was released with.
build kubernetes "$(kubernetes_flags)" "${kubernetes[@]/#/k8s.io/kubernetes/cmd/}" helm.sh/helm/v4/cmd/helm
if [ $node = yes ]; then
  build containerd "-tags no_btrfs -ldflags '-s -w'" \
    github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
  build tools "-ldflags '-s -w'" ./pause
fi
build tools "-ldflags '-s -w'" github.com/yannh/kubeconform/cmd/kubeconform

# --- schemas and the pause image ------------------------------------------------------------------------------------
if [ ! -d "$cache/schemas" ]; then
  log "writing Kubernetes' schemas for kubeconform"
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
