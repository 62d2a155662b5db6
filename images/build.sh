#!/usr/bin/env bash
# Writes the images as OCI archives, FOLDER/NAME.tar, with no container daemon.
#
#   build.sh [--programs FOLDER] [--output FOLDER] [stic-operator] [stic-trainer]      both images if none is named
#
# Without --programs it compiles the programs with the profile `release` and holds the images to their size limits: these
# are for users. With it, it takes the static programs of that folder as they are: these are for tests.
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
declare -A limits=([stic-operator]=20000000 [stic-trainer]=40000000)
[ $# -gt 0 ] || set -- stic-operator stic-trainer
for image in "$@"; do
  [ -n "${limits[$image]:-}" ] || die "there is no image $image: name stic-operator or stic-trainer"
done

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD) || die "the revision for the label comes from git: build in a clone"
git diff --quiet HEAD -- . || revision+=-dirty
if [ -z "$programs" ]; then
  images/compile.sh "$output/bin" "$@"
else
  install -D -s -t "$output/bin" "${@/#/$programs/}"
fi
# Only now: C compilers that read it would compile everything again.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
for image in "$@"; do
  limit=()
  [ -n "$programs" ] || limit=(--max-bytes "${limits[$image]}")
  python3 images/oci.py --dockerfile "${image#stic-}/Dockerfile" --stage "build:/out=$output/bin" \
    --arg "VERSION=$version" --arg "REVISION=$revision" ${SOURCE:+--arg "SOURCE=$SOURCE"} \
    --name "${REGISTRY:-stic.dev}/$image:$version" --output "$output/$image.tar" "${limit[@]}"
done
