#!/usr/bin/env bash
# Tests the Helm chart: lints it, renders it with default and with all values, validates the result against Kubernetes'
# schemas, compares README.md with values and permissions, installs it on a real API server, and asks what its roles allow.
# Needs no root.
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
  log "ok: $*"
}
work=$CLUSTER_RUN/chart
mkdir -p "$work"

# --- without a cluster ------------------------------------------------------------------------------------------
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
grep -qx "appVersion: $version" "$chart/Chart.yaml" || die "appVersion in Chart.yaml is not $version, as in Cargo.toml"
pass "appVersion is the workspace's version"

declare -A values=([default]="$chart/values.yaml" [all]="$all")
for name in default all; do
  helm lint --strict --quiet "$chart" --values "${values[$name]}"
  helm template stic "$chart" --namespace stic-system --values "${values[$name]}" >"$work/$name.yaml"
  kubeconform -strict -summary -schema-location "$cache/schemas/{{.ResourceKind}}{{.KindSuffix}}.json" "$work/$name.yaml"
done
# An explicit list: a template that renders to nothing would pass every other check.
kinds() { sed -n 's/^kind: //p' "$work/$1.yaml" | sort | tr '\n' ' '; }
[ "$(kinds default)" = "ClusterRole ClusterRole ClusterRole ClusterRoleBinding CustomResourceDefinition CustomResourceDefinition CustomResourceDefinition Deployment PodDisruptionBudget Role RoleBinding Service ServiceAccount " ] ||
  die "default values render $(kinds default)"
[ "$(kinds all)" = "ConfigMap CustomResourceDefinition CustomResourceDefinition CustomResourceDefinition Deployment Role Role Role RoleBinding RoleBinding RoleBinding Service ServiceAccount " ] ||
  die "all values render $(kinds all)"
pass "default and all values render every object, and Kubernetes' schemas know every field"

grep -Eq "['\"]\*['\"]|secrets|pods/exec" <(sed '/^kind: CustomResourceDefinition/,/^---/d' "$work/default.yaml" "$work/all.yaml") &&
  die "the chart grants a wildcard, secrets or exec"
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

python3 "$repository/tests/chart_permissions.py"
pass "README.md lists the permissions that the chart grants"

refused() { # VALUE WORDS
  local output
  if output=$(helm template stic "$chart" --set "$1" 2>&1); then die "--set $1 is accepted"; fi
  grep -q "$2" <<<"$output" || die "--set $1 is refused without naming $2: $output"
}
refused replica=2 replica
refused image.tagg=1 tagg
refused config.colour=red colour
refused config.logLevel=loud logLevel
refused image.digest=abc digest
refused replicas=two replicas
refused replicas=2,leaderElection=false leaderElection
refused serviceAccount.create=false serviceAccount.name
pass "invalid values are refused by name"

# --- on an API server -------------------------------------------------------------------------------------------
for namespace in stic-system research teaching team-a team-b ops-a ops-b; do
  kubectl create namespace $namespace >/dev/null
  kubectl label namespace $namespace pod-security.kubernetes.io/enforce=restricted >/dev/null
done
# There is no node: this only checks that admission accepted the pod.
pod_of() { # DEPLOYMENT
  kubectl --namespace stic-system get pods --output name | grep -q "^pod/$1-"
}
may() { # ACCOUNT yes|no WORDS...
  local account=$1 wanted=$2
  shift 2
  within 120 can "$account" "$wanted" "$@"
}
# The authorizer learns of a new role with a delay.
can() { # ACCOUNT yes|no WORDS...
  local output
  output=$(kubectl auth can-i "${@:3}" --as "system:serviceaccount:${account_namespace:-stic-system}:$1" 2>/dev/null || true)
  [ "$output" = "$2" ]
}
# kubectl auth can-i drops the group of a resource that the server does not have, as here, where Kueue is not installed.
may_patch_workloads() { # ACCOUNT NAMESPACE
  local allowed
  allowed=$(kubectl create --output jsonpath='{.status.allowed}' --filename - <<Y
apiVersion: authorization.k8s.io/v1
kind: SubjectAccessReview
spec:
  user: system:serviceaccount:stic-system:$1
  resourceAttributes: {verb: patch, group: kueue.x-k8s.io, resource: workloads, namespace: $2}
Y
  )
  [ "$allowed" = true ]
}

helm install stic "$chart" --namespace stic-system >/dev/null
within 120 pod_of stic-stic-operator
kubectl wait crd stageoneruns.stic.dev stagetworuns.stic.dev evaluationruns.stic.dev --for=condition=Established --timeout=120s >/dev/null
pass "it installs, and Pod Security restricted admits its pod"

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
  within 120 may_patch_workloads $account $namespace
done
may $account yes update leases.coordination.k8s.io/stic-stic-operator --namespace stic-system
may $account no update leases.coordination.k8s.io/another --namespace stic-system
may $account no update leases.coordination.k8s.io/stic-stic-operator --namespace research
pass "in every namespace the account may do what the operator needs, and nothing else"

# The built-in roles of users. Aggregation takes a moment too.
allows() { # ROLE yes|no VERB
  local output
  output=$(kubectl --namespace research auth can-i "$3" stageoneruns.stic.dev --as "$1" 2>/dev/null || true)
  [ "$output" = "$2" ]
}
for role in view edit admin; do
  kubectl --namespace research create rolebinding $role --clusterrole=$role --user=$role >/dev/null
  within 120 allows $role yes list
done
within 120 allows view no create
for role in edit admin; do
  for verb in create patch delete; do within 120 allows $role yes $verb; done
done
pass "view, edit and admin of a namespace include its runs"

helm upgrade stic "$chart" --namespace stic-system --values "$all" >/dev/null
by_digest() {
  kubectl --namespace stic-system get pods --selector app.kubernetes.io/name=operator --output yaml |
    grep 'image: example.com/team/stic-operator@sha256:'
}
within 120 by_digest
may stic-runner yes list stageoneruns.stic.dev --namespace research
may stic-runner yes list stageoneruns.stic.dev --namespace teaching
may stic-runner no list stageoneruns.stic.dev --namespace stic-system
may stic-runner no list stageoneruns.stic.dev --all-namespaces
may stic-runner yes update leases.coordination.k8s.io/stic --namespace stic-system
within 120 allows edit no create
pass "after an upgrade to two namespaces, the account may do nothing elsewhere, and no role is aggregated"

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
kubectl --namespace research get stageonerun kept >/dev/null || die "helm uninstall deleted the runs"
helm install stic "$chart" --namespace stic-system --set crds.keep=false >/dev/null ||
  die "the same release cannot adopt the CRDs that it kept"
helm uninstall stic --namespace stic-system --wait >/dev/null
within 120 bash -c '! kubectl get crd stageoneruns.stic.dev'
pass "uninstalling keeps runs, unless crds.keep is false"

helm install stic-a "$chart" --namespace ops-a --set 'watchNamespaces={team-a}' >/dev/null
second=(helm install stic-b "$chart" --namespace ops-b --set "watchNamespaces={team-b}")
if output=$("${second[@]}" 2>&1); then die "two releases own the CRDs"; fi
grep -q "invalid ownership metadata" <<<"$output" || die "a second release fails otherwise: $output"
"${second[@]}" --set crds.enabled=false >/dev/null || die "a second release cannot do without the CRDs"
for team in a b; do
  account_namespace=ops-$team may stic-$team-stic-operator yes list jobs.batch --namespace team-$team
done
account_namespace=ops-b may stic-b-stic-operator no list jobs.batch --namespace team-a
helm uninstall stic-a --namespace ops-a >/dev/null 2>&1
helm install stic-new "$chart" --namespace ops-a --set watchNamespace=team-a --take-ownership >/dev/null ||
  die "another release cannot take over the CRDs that were kept"
pass "a second release leaves the CRDs to the first, and a new one takes over those that were kept"

echo "$passed passed, 0 failed"
