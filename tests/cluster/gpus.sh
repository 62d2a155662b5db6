#!/usr/bin/env bash
# Inside a node of cluster.sh: offers GPUs to pods, and runs a command.
#
#   cluster.sh [--image ARCHIVE]... gpus.sh DRIVER GPUS CMD ARGS...
#
# DRIVER is a folder with what a container gets of an NVIDIA driver: lib64 and lib, and the variables in env, one a line. A driver
# that emulates GPUs is enough. A device plugin advertises GPUS of them and mounts a copy of DRIVER, $GPU_DRIVER_FOLDER, into the
# containers that request some. CMD may change the copy: the plugin reads env and next in it whenever it allocates GPUs
# (kubernetes/device-plugin/main.go). It logs to $CLUSTER_RUN/log/device-plugin.log.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
run=${CLUSTER_RUN:?gpus.sh runs inside a cluster that cluster.sh started}
[ $# -gt 2 ] || die "usage: cluster.sh gpus.sh DRIVER GPUS CMD ARGS..."
driver=$1 gpus=$2
shift 2
[ -d "$driver/lib64" ] && [ -f "$driver/env" ] || die "$driver is not a driver: it has no lib64, or no env"
programs=$("$here/build.sh" --device-plugin)

export GPU_DRIVER_FOLDER=$run/driver
cp -r "$driver" "$GPU_DRIVER_FOLDER"
# An emulated driver plays as many as are advertised.
echo "GPU_DEVICES=$gpus" >>"$GPU_DRIVER_FOLDER/env"
cp "$GPU_DRIVER_FOLDER/env" "$GPU_DRIVER_FOLDER/env.given"
cat >"$run/components/device-plugin" <<C
#!/bin/bash
exec $programs/bin/device-plugin $GPU_DRIVER_FOLDER $gpus
C
chmod +x "$run/components/device-plugin"
component.sh start device-plugin
trap 'component.sh kill device-plugin' EXIT
advertised() { [ "$(kubectl get node node --output 'jsonpath={.status.allocatable.nvidia\.com/gpu}')" = "$gpus" ]; }
within 120 advertised
log "the node has $gpus GPUs"

"$@"
