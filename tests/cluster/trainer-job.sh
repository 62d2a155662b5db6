#!/usr/bin/env bash
# Inside a node of cluster.sh that has the trainer's image: runs the quickstart's `prepare` step as a Job, without the
# operator, in a namespace that enforces Pod Security `restricted`, and shows what the trainer reported.
#
# It tells the image, the volumes and the node apart from the operator: when this works and a run does not, look there.
#
# STIC_BIN           folder of kubectl-stic, which writes the run config (target/release)
# QUICKSTART_VOLUMES folder of the volumes (examples/quickstart/volumes)
set -euo pipefail
source "$(dirname "$0")/lib.sh"

stic_bin=${STIC_BIN:-$repository/target/release}
volumes=${QUICKSTART_VOLUMES:-$repository/examples/quickstart/volumes}
manifest=$repository/examples/quickstart/stage-one.yaml
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
namespace=trainer-job
[ -x "$stic_bin/kubectl-stic" ] || die "$stic_bin/kubectl-stic is missing: run make build"
[ -f "$volumes/models/scenes-llava/config.json" ] || die "$volumes/models/scenes-llava is missing: see examples/quickstart"

# The run config that the local runner writes before it starts the step; this one interrupts it at once.
work=$CLUSTER_RUN/trainer-job
mkdir -p "$work"
printf '#!/bin/sh\nexit 75\n' >"$work/interrupted"
chmod +x "$work/interrupted"
status=0
"$stic_bin/kubectl-stic" run --filename "$manifest" --namespace $namespace --work-dir "$work" \
  --volume "models=$volumes/models" --volume "images=$volumes/images" --trainer "$work/interrupted" 2>"$work/log" || status=$?
[ $status = 75 ] || die "kubectl-stic wrote no run config: $(cat "$work/log")"
config=$work/runs/$namespace/stageonerun/scenes/prepare.json

begun=$SECONDS
"$here/volumes.sh" $namespace "models=$volumes/models" "images=$volumes/images" stic
kubectl --namespace $namespace create configmap prepare "--from-file=run-config.json=$config"
kubectl --namespace $namespace apply --filename - <<Y
apiVersion: batch/v1
kind: Job
metadata: {name: prepare}
spec:
  backoffLimit: 0
  podReplacementPolicy: Failed
  template:
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      restartPolicy: Never
      securityContext:
        fsGroup: 65532
        fsGroupChangePolicy: OnRootMismatch
        runAsGroup: 65532
        runAsNonRoot: true
        runAsUser: 65532
        seccompProfile: {type: RuntimeDefault}
      containers:
      - name: trainer
        image: ${TRAINER_IMAGE:-stic.dev/stic-trainer:$version}
        command: [stic-trainer]
        args: [step, --config, /etc/stic/run-config.json, --volumes, /volumes, --result, /dev/termination-log]
        env: [{name: HOME, value: /tmp}]
        securityContext:
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL]}
          readOnlyRootFilesystem: true
        terminationMessagePolicy: FallbackToLogsOnError
        volumeMounts:
        - {name: run-config, mountPath: /etc/stic, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        - {name: images, mountPath: /volumes/images, readOnly: true}
        - {name: models, mountPath: /volumes/models, readOnly: true}
        - {name: stic, mountPath: /volumes/stic}
      volumes:
      - {name: run-config, configMap: {name: prepare}}
      - {name: tmp, emptyDir: {}}
      - {name: images, persistentVolumeClaim: {claimName: images}}
      - {name: models, persistentVolumeClaim: {claimName: models}}
      - {name: stic, persistentVolumeClaim: {claimName: stic}}
Y
finished() {
  kubectl --namespace $namespace get job prepare --output 'jsonpath={.status.conditions[?(@.status=="True")].type}' |
    grep -Eqw 'Complete|Failed'
}
deadline=$((SECONDS + 180))
until finished; do
  [ $SECONDS -lt $deadline ] || { kubectl --namespace $namespace describe pods >&2; die "the Job did not end in 180 s"; }
  sleep 0.2
done
message=$(kubectl --namespace $namespace get pods --selector job-name=prepare \
  --output 'jsonpath={.items[0].status.containerStatuses[0].state.terminated.message}')
say "the termination message, after $((SECONDS - begun)) s:"
printf '%s\n' "$message"
kubectl --namespace $namespace get job prepare --output 'jsonpath={.status.conditions[?(@.type=="Complete")].status}' |
  grep -qx True || { kubectl --namespace $namespace logs job/prepare >&2; die "the step failed"; }
find "$CLUSTER_RUN/volumes/$namespace/stic" -name _SUCCESS.json | grep -q . || die "the step left no artifact on its volume"
say "the step succeeded, and its artifact is on the volume"
