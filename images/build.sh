#!/usr/bin/env bash
# Writes the images as OCI archives, FOLDER/NAME.tar, with no container daemon.
#
#   build.sh [--programs FOLDER] [--output FOLDER] [IMAGE...]
#
# IMAGE is stic-operator, stic-trainer or stic-trainer-cuda; without one it writes all, and with --programs the first two.
# stic-trainer-cuda is for x86-64 only, and takes half an hour of CPU time.
#
# Without --programs it compiles the programs with the profile `release` and holds the images to their size limits: these
# are for users. With it, it takes the static programs of that folder as they are, or the trainer that `make trainer-cuda`
# has written there: these are for tests.
#
# --output  where the archives go (target/images)
# REGISTRY  the registry and path before the name (stic.dev). charts/stic-operator/README.md says how to push
# SOURCE    URL of the sources, for the label
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
  echo "images: error: $*" >&2
  exit 1
}

programs=
output=target/images
while [ $# -gt 0 ]; do
  case $1 in
    --programs) programs=${2:?--programs needs a folder}; shift 2 ;;
    --output) output=${2:?--output needs a folder}; shift 2 ;;
    *) break ;;
  esac
done
declare -A limits=([stic-operator]=20000000 [stic-trainer]=40000000 [stic-trainer-cuda]=1000000000)
if [ $# = 0 ]; then
  set -- stic-operator stic-trainer
  [ -n "$programs" ] || [ "$(uname -m)" != x86_64 ] || set -- "$@" stic-trainer-cuda
fi
for image in "$@"; do
  [ -n "${limits[$image]:-}" ] || die "there is no image $image: name one of ${!limits[*]}"
done

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD) || die "the revision for the label comes from git: build in a clone"
git diff --quiet HEAD -- . || revision+=-dirty
static=()
for image in "$@"; do
  if [ "$image" = stic-trainer-cuda ]; then trainer/cuda/files.sh "$output/cuda" ${programs:+"$programs"}; else static+=("$image"); fi
done
if [ ${#static[@]} = 0 ]; then
  :
elif [ -z "$programs" ]; then
  images/compile.sh "$output/bin" "${static[@]}"
else
  install -D -s -t "$output/bin" "${static[@]/#/$programs/}"
fi
# Only now: C compilers that read it would compile everything again.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
for image in "$@"; do
  folder=$output/bin dockerfile=${image#stic-}/Dockerfile limit=()
  [ "$image" != stic-trainer-cuda ] || folder=$output/cuda dockerfile=trainer/cuda/Dockerfile
  [ -n "$programs" ] || limit=(--max-bytes "${limits[$image]}")
  python3 images/oci.py --dockerfile "$dockerfile" --stage "build:/out=$folder" \
    --arg "VERSION=$version" --arg "REVISION=$revision" ${SOURCE:+--arg "SOURCE=$SOURCE"} \
    --name "${REGISTRY:-stic.dev}/$image:$version" --output "$output/$image.tar" "${limit[@]}"
done
