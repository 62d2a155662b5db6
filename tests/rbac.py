"""Holds what the operator asked of the API server, by the audit logs of the suites, against the rules of its chart.

Fails on a request that was denied, since the chart then lacks a verb, and on a verb that nothing used, since the chart
then grants too much. One suite alone does not use all: with --partial, what it did not use is only printed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

CHART = Path(__file__).resolve().parents[1] / "charts/stic-operator"
# The admission plugin OwnerReferencesPermissionEnforcement asks for it, which is off by default: a controller reference
# with blockOwnerDeletion then needs it. It is never a request of the operator, and so in no audit log.
NEVER_CALLED = {("stic.dev", "stageoneruns/finalizers", "update"), ("stic.dev", "stagetworuns/finalizers", "update")}

Request = tuple[str, str, str]
Object = tuple[str | None, str | None]


def granted() -> set[Request]:
    helm = ["helm", "template", "stic-operator", CHART, "--set", "kueue.enabled=true"]
    rendered = subprocess.run(helm, capture_output=True, text=True, check=True).stdout
    roles = [text for text in rendered.split("\n---\n") if "\nkind: ClusterRole\n" in text or "\nkind: Role\n" in text]
    rules = set()
    for role in roles:
        # Reads YAML, and with --local asks no cluster.
        kubectl = ["kubectl", "label", "--local", "--output=json", "--filename=-", "read=yes"]
        made = subprocess.run(kubectl, input=role, capture_output=True, text=True, check=True)
        for rule in json.loads(made.stdout)["rules"]:
            rules |= {
                (group, resource, verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    if not rules:
        sys.exit("rbac: the chart renders no rules")
    return rules


def requests(audit: Path, user: str) -> tuple[set[Request], set[Request]]:
    """The requests of `user` for resources that were allowed, and those that were denied."""
    allowed: dict[Request, set[Object]] = {}
    denied: dict[Request, set[Object]] = {}
    with audit.open() as lines:
        for line in lines:
            if not line.endswith("\n"):
                break  # It is being written.
            event = json.loads(line)
            reference = event.get("objectRef", {})
            if event["user"].get("username") != user or "resource" not in reference:
                continue
            subresource = f"/{reference['subresource']}" if "subresource" in reference else ""
            request = (reference.get("apiGroup", ""), reference["resource"] + subresource, event["verb"])
            # A quota, or a namespace that is being deleted, also answers 403: this is the authorizer's word.
            forbidden = event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
            answers = denied if forbidden else allowed
            answers.setdefault(request, set()).add((reference.get("namespace"), reference.get("name")))
    if not allowed:
        sys.exit(f"rbac: {audit}: {user} asked for nothing; name the operator's account with --user")
    # An API server that was just started denies what it allows as soon as it has read its rules.
    return set(allowed), {request for request, objects in denied.items() if objects - allowed.get(request, set())}


def spelt(request: Request) -> str:
    group, resource, verb = request
    return f"{verb} of {resource} ({group or 'core'})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audit", type=Path, nargs="+", help="an audit log of the API server")
    parser.add_argument("--partial", action="store_true", help="these are not the logs of all suites")
    parser.add_argument("--user", default="system:serviceaccount:stic-system:stic-operator")
    arguments = parser.parse_args()
    used, denied = set(), set()
    for audit in arguments.audit:
        allowed, forbidden = requests(audit, arguments.user)
        used |= allowed
        denied |= forbidden
    rules = granted()
    unused = sorted(rules - used - NEVER_CALLED)
    for request in sorted(denied):
        print(f"rbac: the chart does not grant {spelt(request)}, which the operator asked for", file=sys.stderr)
    for request in unused:
        print(f"rbac: the chart grants {spelt(request)}, which nothing used", file=sys.stderr)
    for request in sorted(NEVER_CALLED & used):
        print(f"rbac: {spelt(request)} is used after all; take it out of NEVER_CALLED", file=sys.stderr)
    if denied or NEVER_CALLED & used or (unused and not arguments.partial):
        sys.exit(1)
    print(f"rbac: {len(rules & used)} of {len(rules - NEVER_CALLED)} granted verbs were used, none was denied")


if __name__ == "__main__":
    main()
