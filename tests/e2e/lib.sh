# Sourced by every case. run.sh sets NAMESPACE, the case's own, and E2E_SHARED, a folder that all cases share.
# shellcheck shell=bash
# A failure inside $( ) fails the case, if the result is assigned on a line of its own.
shopt -s inherit_errexit
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
volumes=${QUICKSTART_VOLUMES:-$repository/examples/quickstart/volumes}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml")

k() { kubectl --namespace "$NAMESPACE" "$@"; }

die() {
  echo "FAILED: $*" >&2
  exit 1
}

# until_true WHAT SECONDS COMMAND...: runs COMMAND five times a second until it succeeds.
until_true() {
  local what=$1 until=$((SECONDS + $2))
  shift 2
  until "$@"; do
    [ $SECONDS -lt $until ] || die "timed out: $what"
    read -rt 0.2 <> <(:) || true
  done
}

# --- volumes ----------------------------------------------------------------------------------------------------
# Creates the namespace, which enforces Pod Security `restricted`, with the quickstart's claims and an empty one, stic.
claims() {
  if [ -n "${CLUSTER_RUN:-}" ]; then
    "$repository/tests/cluster/volumes.sh" "$NAMESPACE" "models=$volumes/models" "images=$volumes/images" \
      "instructions=$volumes/instructions" "heldout=$volumes/heldout" stic
  else
    # There is no general way to copy data onto the volumes of another cluster.
    k get persistentvolumeclaim models images instructions heldout stic >/dev/null ||
      die "create namespace $NAMESPACE with the claims models, images, instructions, heldout (from examples/quickstart/volumes) and stic"
  fi
}

# --- runs -------------------------------------------------------------------------------------------------------
# A step takes a tenth of a second of a processor. With a fifth of one it is long enough to be seen and paused, also where the
# observer does not get a processor for a moment.
slowly='pod: {resources: {limits: {cpu: 200m}}}'

# stage_one NAME [LINE]...: applies a short StageOneRun, with more lines of its spec. The variables LIMIT, SHARDS, RATE, EPOCHS,
# CLAIM and FOLDER change it; OUTPUT replaces CLAIM and FOLDER.
stage_one() {
  local output="{volume: {claimName: ${CLAIM:-stic}, path: ${FOLDER:-$1}}}"
  [[ "${*:2}" == *"pod: "* ]] || set -- "$@" "$slowly"
  {
    cat <<Y
apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {name: $1}
spec:
  model: {volume: {claimName: models, path: scenes-llava}}
  images: {volume: {claimName: images, path: unlabelled}, limit: ${LIMIT:-8}}
  preferences: {sampling: {maxNewTokens: 48}, shards: ${SHARDS:-1}}
  training:
    precision: F32
    lora: {rank: 8, alpha: 16}
    optimizer: {learningRate: "${RATE:-1e-3}"}
    globalBatchSize: 4
    epochs: ${EPOCHS:-1}
    saveSteps: 1
  output: ${OUTPUT:-$output}
Y
    shift
    for line in "$@"; do echo "  $line"; done
  } | k apply --filename -
}

# stage_two NAME STAGE-ONE
stage_two() {
  k apply --filename - <<Y
apiVersion: stic.dev/v1alpha1
kind: StageTwoRun
metadata: {name: $1}
spec:
  initFrom: {stageOneRunRef: {name: $2}}
  instructions: {volume: {claimName: instructions}, file: instructions.json, limit: 8}
  images: {volume: {claimName: instructions}}
  description: {sampling: {maxNewTokens: 48}}
  training: {precision: F32, optimizer: {learningRate: "1e-3"}, globalBatchSize: 4}
  output: {volume: {claimName: stic, path: $1}}
  $slowly
Y
}

patch() { k patch "$1" --type=merge --patch "{\"spec\": $2}"; } # KIND/NAME SPEC
suspend() { patch "$1" "{\"suspend\": $2}"; }
rerun() { patch "$1" "{\"rerun\": $2}"; }

# reason KIND/NAME WANTED [SECONDS]: waits until the condition Succeeded has the reason.
reason() {
  k wait "$1" --for=jsonpath="{.status.conditions[?(@.type==\"Succeeded\")].reason}=$2" --timeout="${3:-180}s"
}

succeeded() { k wait "$@" --for=condition=Succeeded --timeout=300s; }

condition() { k get "$1" --output jsonpath="{.status.conditions[?(@.type==\"$2\")].$3}"; } # KIND/NAME TYPE FIELD

# message_contains KIND/NAME TEXT [CONDITION]: the message of the condition (default: Succeeded) contains TEXT.
message_contains() {
  local message
  message=$(condition "$1" "${3:-Succeeded}" message)
  [[ $message == *"$2"* ]] || die "the message of $1 is \"$message\", without \"$2\""
}

step() { k get "$1" --output jsonpath="{.status.steps[?(@.name==\"$2\")].$3}"; } # KIND/NAME STEP FIELD
artifact() { k get "$1" --output jsonpath="{.status.artifacts[?(@.kind==\"$2\")].$3}"; } # KIND/NAME KIND FIELD
adapter() { artifact "$1" Adapter digest; }

# The digest of the adapter of an undisturbed run that stage_one applies with the current LIMIT, RATE and EPOCHS. The first case
# that needs it runs it; folders, shards and namespaces change no byte. If it fails, it fails for every case.
undisturbed() {
  local known="$E2E_SHARED/undisturbed-${LIMIT:-8}-${RATE:-1e-3}-${EPOCHS:-1}" lock
  exec {lock}>"$known.lock"
  flock "$lock"
  if [ ! -e "$known" ]; then
    : >"$known"
    SHARDS=1 OUTPUT='' FOLDER='' CLAIM='' stage_one undisturbed >&2
    succeeded stageonerun/undisturbed >&2
    adapter stageonerun/undisturbed >"$known"
  fi
  exec {lock}>&-
  [ -s "$known" ] || die "the undisturbed run failed"
  cat "$known"
}

# same_adapter RUN [STEP=JOBS]...: the run succeeds, with the adapter of the undisturbed run, and each step has one Job, or JOBS.
same_adapter() {
  local run=$1 step wanted of_step jobs
  succeeded "stageonerun/$run"
  wanted=$(undisturbed)
  [ "$(adapter "stageonerun/$run")" = "$wanted" ] || die "the adapter of $run differs from that of the undisturbed run"
  for step in prepare generate train; do
    wanted=1
    for of_step in "${@:2}"; do [ "${of_step%=*}" != $step ] || wanted=${of_step#*=}; done
    jobs=$(jobs_of "$run" $step)
    [ "$jobs" = "$wanted" ] || die "$run has $jobs Jobs of $step instead of $wanted"
  done
}

# --- pods -------------------------------------------------------------------------------------------------------
# The name of a running pod of a step, or nothing.
pod_of() {
  k get pods --selector "stic.dev/run=$1,stic.dev/step=$2" --field-selector status.phase=Running \
    --output jsonpath='{.items[*].metadata.name}' | cut -d' ' -f1
}
has_pod() { [ -n "$(pod_of "$1" "$2")" ]; }
has_no_pod() { [ -z "$(k get pods --selector "stic.dev/run=$1" --field-selector status.phase=Running --output name)" ]; }
has_no_job() { [ -z "$(k get jobs --selector "stic.dev/run=$1" --output name)" ]; }
is_gone() { ! k get "$@" >/dev/null 2>&1; }

# running RUN STEP: waits until a pod of the step runs, and prints its name.
running() {
  until_true "a pod of $2 of $1 runs" 300 has_pod "$1" "$2"
  pod_of "$1" "$2"
}

# The number of Jobs of a step.
jobs_of() { k get jobs --selector "stic.dev/run=$1,stic.dev/step=$2" --output name | wc -l; }

# The exit codes of the pods of a step, oldest first.
exits() {
  k get pods --selector "stic.dev/run=$1,stic.dev/step=$2" --sort-by .metadata.creationTimestamp \
    --output jsonpath='{.items[*].status.containerStatuses[0].state.terminated.exitCode}'
}
