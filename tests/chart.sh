#!/usr/bin/env bash
# Tests of the Helm chart: linted, rendered with default and with all values, held against Kubernetes' schemas, installed
# on a real API server, and its RBAC asked what it allows. Needs no root.
set -euo pipefail
source "$(dirname "$0")/cluster/lib.sh"
chart=$repository/charts/stic-operator
all=$chart/ci/all-options.yaml

if [ "${1:-}" != --inside ]; then
  "$repository/tests/cluster/build.sh" --control-plane >/dev/null
  exec "$repository/tests/cluster/cluster.sh" --control-plane "$0" --inside
fi

passed=0
pass() {
  passed=$((passed + 1))
  say "ok: $*"
}
work=$CLUSTER_RUN/chart
mkdir -p "$work"

# --- without a cluster ------------------------------------------------------------------------------------------
for file in "$repository"/crds/*.yaml; do
  cmp -s "$file" "$chart/files/crds/$(basename "$file")" || die "$(basename "$file") differs in the chart: run make crds"
done
[ "$(find "$chart/files/crds" -type f | wc -l)" = "$(find "$repository/crds" -maxdepth 1 -name '*.yaml' | wc -l)" ] ||
  die "the chart has CRDs that crds/ has not"
pass "the chart's CRDs are those of crds/"

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
grep -qx "appVersion: $version" "$chart/Chart.yaml" || die "appVersion in Chart.yaml is not $version, as in Cargo.toml"
pass "appVersion is the workspace's version"

declare -A values=([default]="$chart/values.yaml" [all]="$all")
for name in default all; do
  helm lint --strict --quiet "$chart" --values "${values[$name]}"
  # An independent list of what is there: a template that renders to nothing would pass every check.
  helm template stic "$chart" --namespace stic-system --values "${values[$name]}" >"$work/$name.yaml"
  kubeconform -strict -summary -schema-location "$cache/schemas/{{.ResourceKind}}{{.KindSuffix}}.json" "$work/$name.yaml"
done
kinds() { sed -n 's/^kind: //p' "$work/$1.yaml" | sort | tr '\n' ' '; }
[ "$(kinds default)" = "ClusterRole ClusterRoleBinding CustomResourceDefinition CustomResourceDefinition Deployment PodDisruptionBudget Role RoleBinding Service ServiceAccount " ] ||
  die "default values render $(kinds default)"
[ "$(kinds all)" = "ConfigMap CustomResourceDefinition CustomResourceDefinition Deployment Role Role RoleBinding RoleBinding Service ServiceAccount " ] ||
  die "all values render $(kinds all)"
pass "default and all values render whole, and Kubernetes' schemas know every field"

grep -Eq "['\"]\*['\"]|secrets|pods/exec" <(sed '/^kind: CustomResourceDefinition/,/^---/d' "$work/default.yaml" "$work/all.yaml") &&
  die "the chart asks for a wildcard, secrets or exec"
pass "no wildcard, no secrets, no exec"

python3 - "$chart" <<'P'
import json
import sys
from pathlib import Path
chart = Path(sys.argv[1])
schema = json.loads((chart / "values.schema.json").read_text())
readme = (chart / "README.md").read_text()
def leaves(node, path=""):
    if "properties" in node:
        for name, child in node["properties"].items():
            yield from leaves(child, f"{path}.{name}".lstrip("."))
    else:
        yield path
missing = [leaf for leaf in leaves(schema) if leaf != "global" and f"`{leaf}`" not in readme]
if missing:
    sys.exit(f"charts/stic-operator/README.md does not explain {', '.join(missing)}")
P
pass "README.md explains every value"

refused() { # VALUE WORDS
  local answer
  if answer=$(helm template stic "$chart" --set "$1" 2>&1); then die "--set $1 is not refused"; fi
  grep -q "$2" <<<"$answer" || die "--set $1 is refused with other words than $2: $answer"
}
refused replica=2 replica
refused image.tagg=1 tagg
refused config.colour=red colour
refused image.digest=abc digest
refused replicas=two replicas
refused replicas=2,leaderElection=false leaderElection
refused serviceAccount.create=false serviceAccount.name
pass "values that cannot be are refused by name"

# --- on an API server -------------------------------------------------------------------------------------------
within() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || die "did not come true: $*"
    sleep 0.1
  done
}
for namespace in stic-system research; do
  kubectl create namespace $namespace >/dev/null
  kubectl label namespace $namespace pod-security.kubernetes.io/enforce=restricted >/dev/null
done
# No node here: that the pod was let in is what is asked.
pod_of() { # DEPLOYMENT
  kubectl --namespace stic-system get pods --output name | grep -q "^pod/$1-"
}
may() { # ACCOUNT yes|no WORDS...
  local account=$1 wanted=$2
  shift 2
  within 10 can "$account" "$wanted" "$@"
}
# The authorizer hears of a role a moment after it is made.
can() { # ACCOUNT yes|no WORDS...
  local answer
  answer=$(kubectl auth can-i "${@:3}" --as "system:serviceaccount:stic-system:$1" 2>/dev/null || true)
  [ "$answer" = "$2" ]
}

helm install stic "$chart" --namespace stic-system >/dev/null
within 30 pod_of stic-stic-operator
kubectl wait crd stageoneruns.stic.dev stagetworuns.stic.dev --for=condition=Established --timeout=30s >/dev/null
pass "it installs, and Pod Security restricted lets its pod in"

account=stic-stic-operator
for namespace in stic-system research; do
  may $account yes list stageoneruns.stic.dev --namespace $namespace
  may $account yes patch stagetworuns.stic.dev --subresource status --namespace $namespace
  may $account yes create jobs.batch --namespace $namespace
  may $account yes create events.events.k8s.io --namespace $namespace
  may $account no get secrets --namespace $namespace
  may $account no create pods --namespace $namespace
  may $account no create pods --subresource exec --namespace $namespace
  may $account no delete persistentvolumeclaims --namespace $namespace
  may $account no patch stageoneruns.stic.dev --namespace $namespace
  may $account no patch workloads.kueue.x-k8s.io --namespace $namespace
done
may $account yes update leases.coordination.k8s.io/stic-stic-operator --namespace stic-system
may $account no update leases.coordination.k8s.io/another --namespace stic-system
may $account no update leases.coordination.k8s.io/stic-stic-operator --namespace research
pass "the account may what the operator does in every namespace, and no more"

helm upgrade stic "$chart" --namespace stic-system --values "$all" >/dev/null
by_digest() {
  kubectl --namespace stic-system get pods --selector app.kubernetes.io/name=operator --output yaml |
    grep 'image: example.com/team/stic-operator@sha256:'
}
within 30 by_digest
may stic-runner yes list stageoneruns.stic.dev --namespace research
may stic-runner no list stageoneruns.stic.dev --namespace stic-system
may stic-runner no list stageoneruns.stic.dev --all-namespaces
may stic-runner yes update leases.coordination.k8s.io/stic --namespace stic-system
pass "it upgrades to one namespace, and the account may nothing elsewhere"

helm upgrade stic "$chart" --namespace stic-system --reset-values >/dev/null
kubectl --namespace research create --filename - >/dev/null <<R
apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {name: kept}
spec:
  model: {volume: {claimName: models, path: llava}}
  images: {volume: {claimName: images, path: ""}}
  output: {volume: {claimName: stic, path: kept}}
R
helm uninstall stic --namespace stic-system >/dev/null 2>&1
kubectl --namespace research get stageonerun kept >/dev/null || die "helm uninstall took the runs along"
helm install stic "$chart" --namespace stic-system --set crds.keep=false >/dev/null ||
  die "what was kept cannot be taken over by the same release"
helm uninstall stic --namespace stic-system --wait >/dev/null
within 30 bash -c '! kubectl get crd stageoneruns.stic.dev'
pass "uninstalling keeps runs, unless crds.keep is false"

echo "$passed passed, 0 failed"
