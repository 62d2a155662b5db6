#!/usr/bin/env bash
# The rows of examples/paper: kustomize builds each, alone and with components; kubectl-stic renders the result, which checks it
# against the schema; and check_examples.py checks what no schema can. Needs the built kubectl-stic (STIC_BIN), and no cluster.
set -euo pipefail
source "$(dirname "$0")/cluster/lib.sh"
program=${STIC_BIN:?is not set: run make examples-test}/kubectl-stic
"$here/build.sh" --control-plane >/dev/null
PATH=$bin:$PATH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work"/{yaml,json}
paper=$repository/examples/paper

# build ROW [COMPONENT]: as README.md tells users to write it. Each in a namespace of its own, so that one program can render all:
# it takes a second to start.
build() {
  local name=${1//[\/.]/-}${2:+-with-$2}
  mkdir "$work/$name"
  {
    echo "namespace: $name"
    echo "resources: [$(realpath --relative-to="$work/$name" "$paper/$1")]"
    echo "components: [${2:+$(realpath --relative-to="$work/$name" "$paper/components/$2")}]"
  } >"$work/$name/kustomization.yaml"
  kubectl kustomize "$work/$name" >"$work/yaml/$name.yaml" || die "kustomize cannot build $name"
  # `label --local` prints objects of any kind as JSON without asking a server about them.
  kubectl label --local --output json --filename "$work/yaml/$name.yaml" stic.dev/example=yes >"$work/json/$name.json"
}

mapfile -t rows < <(cd "$paper" && find . -name kustomization.yaml -not -path './components/*' -printf '%P\n' | sort)
[ ${#rows[@]} -gt 0 ] || die "there is no kustomization.yaml in $paper"
for row in "${rows[@]%/kustomization.yaml}"; do
  build "$row"
  # Those of seeds have that component.
  [[ $row == seeds/* ]] || build "$row" seed-1
  build "$row" judge
done
"$program" render --filename "$work/yaml" >/dev/null || die "kubectl-stic cannot render what kustomize has built"
python3 "$repository/tests/check_examples.py" "$work/json"
log "ok: ${#rows[@]} rows of examples/paper, each alone, with another seed and with a judge"
