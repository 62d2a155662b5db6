#!/usr/bin/env bash
# Gathers the files of the image stic-trainer-cuda on a machine without a GPU:
#
#   files.sh FOLDER [BUILD]    the trainer, lib/ with every library that it loads but the driver, lib64/ with their loader, licenses/
#
# BUILD is a folder that build.sh has written, which is taken as it is. Without it, the trainer is compiled into target/cuda.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:?usage: files.sh FOLDER [BUILD]}
build=${2:-target/cuda}
if [ $# = 1 ]; then
  trainer/cuda/build.sh "$build"
elif [ ! -x "$build/stic-trainer" ] || [ ! -d "$build/lib" ]; then
  echo "files.sh: error: there is no trainer with its libraries in $build; run make trainer-cuda" >&2
  exit 1
fi

rm -rf "$folder"
mkdir -p "$folder"/{lib,lib64,licenses}
install -s "$build/stic-trainer" "$folder/stic-trainer"
cp -L "$build"/lib/*.so.* "$folder/lib/"
# What those need of this machine. They find each other in lib/, beside the trainer.
loaded=$(for file in "$folder/stic-trainer" "$folder"/lib/*; do LD_LIBRARY_PATH=$folder/lib ldd "$file"; done)
missing=$(sed -n 's/^\t\(.*\) => not found$/\1/p' <<<"$loaded" | sort -u)
[ -z "$missing" ] || { echo "files.sh: error: cannot find $missing, which the trainer loads" >&2; exit 1; }
sed -n 's/^\t.* => \(\/.*\) (0x.*)$/\1/p' <<<"$loaded" | sort -u | while read -r library; do
  [ "$(dirname "$(realpath "$library")")" = "$(realpath "$folder/lib")" ] || cp -L "$library" "$folder/lib/"
done
# Drivers load these by name.
libc=$(sed -n '/^\tlibc.so.6 => /{s/^\tlibc.so.6 => \(.*\) (0x.*)$/\1/p;q}' <<<"$loaded")
for library in libdl.so.2 libpthread.so.0 librt.so.1; do cp -L "$(dirname "$libc")/$library" "$folder/lib/"; done
cp -L /lib64/ld-linux-x86-64.so.2 "$folder/lib64/"
toolkit=$(dirname "$(dirname "$(realpath "$build/lib/libcublas.so.13")")")
license=$(find "$toolkit/../.." -ipath '*cublas*/license*' -type f -print -quit)
cp "${license:?files.sh: error: the wheels of CUDA have no licence}" "$folder/licenses/NVIDIA"
# That of the C library, where this machine has the text.
[ ! -e /usr/share/common-licenses/LGPL-2.1 ] || cp /usr/share/common-licenses/LGPL-2.1 "$folder/licenses/"
