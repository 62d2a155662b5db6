#!/usr/bin/env bash
# Compiles the trainer with CUDA on a machine that has no GPU, no driver and no CUDA:
#
#   build.sh TARGET_DIR       leaves TARGET_DIR/stic-trainer, and in TARGET_DIR/lib the libraries it loads
#
# STIC_CACHE        where the toolkit is kept, 1.2 GB (~/.cache/stic)
# CUDA_COMPUTE_CAP  the oldest GPU to compile for (80: A100); the driver compiles for later ones when the trainer starts
# PYTHON            an interpreter with pip (python3)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${1:?usage: build.sh TARGET_DIR}
cache=${STIC_CACHE:-$HOME/.cache/stic}
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
requirements=$here/requirements.txt
wheels=$cache/cuda-$(sha256sum "$requirements" | cut -c1-12)
toolkit=$wheels/nvidia/cu13

if [ ! -e "$wheels/ready" ]; then
  rm -rf "$wheels"
  "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --target "$wheels" -r "$requirements"
  # The wheels share one folder, laid out as a toolkit but for the names that a linker looks for.
  ln -s lib "$toolkit/lib64"
  for library in "$toolkit"/lib/lib*.so.*; do
    ln -sf "$(basename "$library")" "${library%%.so.*}.so"
  done
  touch "$wheels/ready"
fi
rm -rf "$target/lib"
mkdir -p "$toolkit/lib/stubs" "$target/lib"
rm -f "$toolkit/lib/stubs/libcuda.a"
cc -O2 -fPIC -c "$here/driver.c" -o "$target/driver.o"
ar rcs "$toolkit/lib/stubs/libcuda.a" "$target/driver.o"

# Beside the program: a machine with a driver has no toolkit.
for library in cudart cublas cublasLt curand nvrtc nvrtc-builtins; do
  for file in "$toolkit/lib/lib$library".so.*; do
    ln -sf "$file" "$target/lib/"
  done
done
# Linked dynamically, unlike the programs of `make build`: it loads the driver.
env -u RUSTC_WORKSPACE_WRAPPER PATH="$toolkit/bin:$PATH" CUDA_HOME="$toolkit" CARGO_TARGET_DIR="$target" \
  cargo rustc --release -p stic-trainer --bin stic-trainer --features cuda -- -C link-arg=-Wl,-rpath,'$ORIGIN/lib'
cp "$target/release/stic-trainer" "$target/stic-trainer"
