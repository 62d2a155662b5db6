#!/usr/bin/env bash
# Writes the images as OCI archives, target/images/NAME.tar, with no container daemon.
#
#   build.sh [stic-operator] [stic-trainer]      both where none is named
#
# REGISTRY  what stands before the name (stic.dev): podman push target/images/stic-trainer.tar, or crane, pushes it there
# SOURCE    URL of the sources, for the label
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
  echo "images: error: $*" >&2
  exit 1
}

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD) || die "the revision for the label comes from git: build in a clone"
git diff --quiet HEAD -- . || revision+=-dirty
declare -A limits=([stic-operator]=20000000 [stic-trainer]=40000000)
[ $# -gt 0 ] || set -- stic-operator stic-trainer
for image in "$@"; do
  [ -n "${limits[$image]:-}" ] || die "$image is no image of this repository: stic-operator, stic-trainer"
done
images/compile.sh target/images/bin "$@"
# Only now: compilers of C that heed it would run again.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
for image in "$@"; do
  python3 images/oci.py --dockerfile "${image#stic-}/Dockerfile" \
    --stage build:/out=target/images/bin \
    --arg "VERSION=$version" --arg "REVISION=$revision" ${SOURCE:+--arg "SOURCE=$SOURCE"} \
    --name "${REGISTRY:-stic.dev}/$image:$version" --output "target/images/$image.tar" --max-bytes "${limits[$image]}"
done
