"""The permissions that the Helm chart grants, as its templates render them, and their table in the chart's README.

    python3 tests/chart_permissions.py            fails if the table in README differs from the chart
    python3 tests/chart_permissions.py --write    writes the table

Needs helm on PATH, and nothing else: the rules in the templates are written in one fixed form, which is read here line by
line. Anything else in a rule is an error. A comment before a rule becomes its reason in the table.
"""

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHART = Path(__file__).resolve().parents[1] / "charts/stic-operator"
README = CHART / "README.md"
BEGIN = "<!-- permissions: written by tests/chart_permissions.py -->"
END = "<!-- end of permissions -->"
RELEASE = "stic-operator"
FIELD = re.compile(r"^[- ] (apiGroups|resources|resourceNames|verbs): \[([^\]]*)\]$")


@dataclass(frozen=True)
class Rule:
    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...]
    reason: str

    def requests(self) -> set[tuple[str, str, str]]:
        """Every (API group, resource, verb) that the rule grants."""
        return {(group, resource, verb) for group in self.groups for resource in self.resources for verb in self.verbs}


@dataclass(frozen=True)
class Role:
    kind: str
    namespace: str
    rules: tuple[Rule, ...]


def render(*values: str) -> str:
    settings = [word for value in values for word in ("--set", value)]
    helm = ["helm", "template", RELEASE, CHART, "--namespace", "release-namespace", *settings]
    return subprocess.run(helm, capture_output=True, text=True, check=True).stdout


def roles(manifests: str) -> list[Role]:
    """The Roles and ClusterRoles among rendered manifests."""
    found = []
    for text in manifests.split("\n---\n"):
        kind = re.search(r"^kind: (Role|ClusterRole)$", text, re.MULTILINE)
        # Roles for users are rules of Kubernetes' own roles.
        if kind and "rbac.authorization.k8s.io/aggregate-to-" not in text:
            namespace = re.search(r"^  namespace: (\S+)$", text, re.MULTILINE)
            rules = text.split("\nrules:\n")[1]
            found.append(Role(kind[1], namespace[1] if namespace else "", tuple(read_rules(rules))))
    if not found:
        sys.exit("chart_permissions: the chart renders no roles")
    return found


def read_rules(text: str) -> list[Rule]:
    """The rules of a role, each with the comment before it."""
    rules: list[dict] = []
    comment: list[str] = []
    for line in filter(None, text.splitlines()):
        field = FIELD.match(line)
        if line.startswith("# "):
            comment.append(line.removeprefix("# "))
        elif field:
            if line.startswith("- "):
                rules.append({"reason": " ".join(comment)})
                comment = []
            rules[-1][field[1]] = tuple(item.strip().strip('"') for item in field[2].split(","))
        else:
            sys.exit(f"chart_permissions: cannot read {line!r}; write apiGroups, resources, resourceNames and verbs as lists "
                     "in brackets, one on each line")
    return [
        Rule(rule["apiGroups"], rule["resources"], rule["verbs"], rule.get("resourceNames", ()), rule["reason"])
        for rule in rules
    ]


def granted() -> set[tuple[str, str, str]]:
    """Every (API group, resource, verb) that the chart can grant."""
    return {request for role in roles(render()) for rule in role.rules for request in rule.requests()}


def check_scopes() -> None:
    """With watchNamespaces the same rules become a Role in each of them, and nothing is left of the ClusterRole."""
    watched, lease = (role.rules for role in roles(render()))
    some = roles(render("watchNamespaces={a,b}", "watchNamespace=b"))
    if [role.rules for role in some] != [watched, watched, lease] or {role.kind for role in some} != {"Role"}:
        sys.exit("chart_permissions: with watchNamespaces the chart grants other rules")
    if [role.namespace for role in some] != ["a", "b", "release-namespace"]:
        sys.exit("chart_permissions: with watchNamespaces the roles are in other namespaces")


def spell(group: str, resource: str) -> str:
    """As kubectl writes it: stageoneruns.stic.dev/status."""
    name, slash, subresource = resource.partition("/")
    return f"{name}.{group}{slash}{subresource}" if group else resource


def table() -> str:
    required = {rule for role in roles(render("kueue.enabled=false")) for rule in role.rules}
    lines = [BEGIN, "", "| where | resources | verbs | why |", "|---|---|---|---|"]
    for role in roles(render()):
        where = "the release's namespace" if role.namespace else "watched namespaces"
        for rule in role.rules:
            if not rule.reason:
                sys.exit(f"chart_permissions: the rule for {', '.join(rule.resources)} has no comment that says why")
            resources = ", ".join(f"`{spell(group, name)}`" for group in rule.groups for name in rule.resources)
            if rule.names == (RELEASE,):
                resources += " of the release's name"
            elif rule.names:
                resources += f" named {', '.join(rule.names)}"
            condition = "" if rule in required else "Unless `kueue.enabled` is false. "
            lines.append(f"| {where} | {resources} | {', '.join(rule.verbs)} | {condition}{rule.reason} |")
            where = ""
    return "\n".join([*lines, "", END])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table into the chart's README")
    arguments = parser.parse_args()
    check_scopes()
    text = README.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"chart_permissions: {README} has no lines {BEGIN} and {END}")
    wanted = before + table() + after
    if arguments.write:
        README.write_text(wanted)
    elif text != wanted:
        sys.exit(f"chart_permissions: the table in {README} differs from the chart; "
                 "run python3 tests/chart_permissions.py --write")


if __name__ == "__main__":
    main()
