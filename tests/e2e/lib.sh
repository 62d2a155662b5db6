# What the cases share. Sourced by each; NAMESPACE is the case's own.
# shellcheck shell=bash
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
volumes=${QUICKSTART_VOLUMES:-$repository/examples/quickstart/volumes}

k() { kubectl --namespace "$NAMESPACE" "$@"; }

die() {
  echo "$*" >&2
  exit 1
}

# The namespace, which enforces Pod Security `restricted`, with the quickstart's claims and an empty one, stic.
claims() {
  if [ -n "${CLUSTER_RUN:-}" ]; then
    "$repository/tests/cluster/volumes.sh" "$NAMESPACE" "models=$volumes/models" "images=$volumes/images" \
      "instructions=$volumes/instructions" stic
  else
    # On another cluster nobody knows how to get data onto its volumes.
    k get persistentvolumeclaim models images instructions stic >/dev/null ||
      die "make namespace $NAMESPACE with claims models, images, instructions (of examples/quickstart/volumes) and stic"
  fi
}

# stage_one NAME [LINE]...: applies a short StageOneRun, with further lines of its spec.
stage_one() {
  {
    cat <<Y
apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {name: $1}
spec:
  model: {volume: {claimName: models, path: scenes-llava}}
  images: {volume: {claimName: images, path: unlabelled}, limit: ${LIMIT:-16}}
  preferences: {sampling: {maxNewTokens: 48}, shards: ${SHARDS:-1}}
  training:
    precision: F32
    lora: {rank: 8, alpha: 16}
    optimizer: {learningRate: "${RATE:-1e-3}"}
    globalBatchSize: 4
  output: {volume: {claimName: ${CLAIM:-stic}, path: $1}}
Y
    shift
    for line in "$@"; do echo "  $line"; done
  } | k apply --filename -
}

# reason KIND/NAME WANTED [SECONDS]: waits until the condition Succeeded has the reason.
reason() {
  k wait "$1" --for=jsonpath="{.status.conditions[?(@.type==\"Succeeded\")].reason}=$2" --timeout="${3:-180}s"
}

succeeded() { k wait "$@" --for=condition=Succeeded --timeout=300s; }

# says KIND/NAME TEXT: the message of the condition Succeeded holds TEXT.
says() {
  local message
  message=$(k get "$1" --output jsonpath='{.status.conditions[?(@.type=="Succeeded")].message}')
  [[ $message == *"$2"* ]] || die "$1 says \"$message\", and not \"$2\""
}

# The digest of what a run made.
adapter() { k get "$1" --output jsonpath='{.status.artifacts[?(@.kind=="Adapter")].digest}'; }

# until_true WHAT SECONDS COMMAND...: asks twice a second.
until_true() {
  local what=$1 until=$((SECONDS + $2))
  shift 2
  until "$@"; do
    [ $SECONDS -lt $until ] || die "not within its time: $what"
    read -rt 0.5 <> <(:) || true
  done
}

# The name of a running pod of a run's step, if there is one.
pod_of() {
  k get pods --selector "stic.dev/run=$1,stic.dev/step=$2" --field-selector status.phase=Running \
    --output jsonpath='{.items[*].metadata.name}' | cut -d' ' -f1
}
has_pod() { [ -n "$(pod_of "$1" "$2")" ]; }
has_no_pod() { [ -z "$(k get pods --selector "stic.dev/run=$1" --field-selector status.phase=Running --output name)" ]; }
has_no_job() { [ -z "$(k get jobs --selector "stic.dev/run=$1" --output name)" ]; }

# How many Jobs a run has for a step.
jobs_of() { k get jobs --selector "stic.dev/run=$1,stic.dev/step=$2" --output name | wc -l; }
