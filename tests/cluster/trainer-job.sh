#!/usr/bin/env bash
# Inside a node of cluster.sh that has the trainer's image: runs the quickstart's `prepare` step as a Job, without the
# operator, in a namespace that enforces Pod Security `restricted`, and prints the trainer's result.
#
# It separates problems of image, volumes and node from those of the operator: if this works and a run does not, look at the
# operator.
#
# STIC_BIN           folder of the built programs: kubectl-stic writes the run config
# QUICKSTART_VOLUMES folder of the volumes (examples/quickstart/volumes)
set -euo pipefail
source "$(dirname "$0")/lib.sh"

[ -n "${STIC_BIN:-}" ] || die "STIC_BIN is not set: name the folder of the built programs, such as target/ci after make build"
volumes=${QUICKSTART_VOLUMES:-$repository/examples/quickstart/volumes}
manifest=$repository/examples/quickstart/stage-one.yaml
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
namespace=trainer-job
[ -x "$STIC_BIN/kubectl-stic" ] || die "$STIC_BIN/kubectl-stic is missing: run make build"
[ -f "$volumes/models/scenes-llava/config.json" ] || die "$volumes/models/scenes-llava is missing: see examples/quickstart"

# kubectl-stic writes the run config before it starts the trainer; this trainer stops at once with exit code 75.
work=$CLUSTER_RUN/trainer-job
mkdir -p "$work"
printf '#!/bin/sh\nexit 75\n' >"$work/interrupted"
chmod +x "$work/interrupted"
status=0
"$STIC_BIN/kubectl-stic" run --filename "$manifest" --namespace $namespace --work-dir "$work" \
  --volume "models=$volumes/models" --volume "images=$volumes/images" --trainer "$work/interrupted" 2>"$work/log" || status=$?
[ $status = 75 ] || die "kubectl-stic did not write a run config: $(cat "$work/log")"
config=$work/runs/$namespace/stageonerun/scenes/prepare.json

started=$SECONDS
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
  [ $SECONDS -lt $deadline ] || { kubectl --namespace $namespace describe pods >&2; die "the Job did not finish within 180 s"; }
  sleep 0.2
done
message=$(kubectl --namespace $namespace get pods --selector job-name=prepare \
  --output 'jsonpath={.items[0].status.containerStatuses[0].state.terminated.message}')
log "the termination message, after $((SECONDS - started)) s:"
printf '%s\n' "$message"
kubectl --namespace $namespace get job prepare --output 'jsonpath={.status.conditions[?(@.type=="Complete")].status}' |
  grep -qx True || { kubectl --namespace $namespace logs job/prepare >&2; die "the step failed"; }
find "$CLUSTER_RUN/volumes/$namespace/stic" -name _SUCCESS.json | grep -q . || die "there is no artifact on the volume"
log "the step succeeded; its artifact is on the volume"
