"""Compares what the operator requested of the API server, by the audit logs of the suites, with the rules of its chart.

Fails on a request that was denied, since the chart then lacks a verb, and on a verb that nothing used, since the chart
then grants too much. One suite alone does not use all verbs: with --partial, unused verbs are only printed.
"""

import argparse
import json
import sys
from pathlib import Path

from chart_permissions import granted

# The admission plugin OwnerReferencesPermissionEnforcement requires it, which is off by default: an owner reference with
# blockOwnerDeletion then needs it. The operator never requests it, so it is in no audit log.
NEVER_CALLED = {("stic.dev", "stageoneruns/finalizers", "update"), ("stic.dev", "stagetworuns/finalizers", "update"),
                ("stic.dev", "evaluationruns/finalizers", "update")}

Request = tuple[str, str, str]
Object = tuple[str | None, str | None]


def requests(audit: Path, user: str) -> tuple[set[Request], set[Request]]:
    """The requests of `user` that were allowed, and those that were denied."""
    allowed: dict[Request, set[Object]] = {}
    denied: dict[Request, set[Object]] = {}
    with audit.open() as lines:
        for line in lines:
            if not line.endswith("\n"):
                break  # The API server is still writing it.
            event = json.loads(line)
            reference = event.get("objectRef", {})
            if event["user"].get("username") != user or "resource" not in reference:
                continue
            subresource = f"/{reference['subresource']}" if "subresource" in reference else ""
            request = (reference.get("apiGroup", ""), reference["resource"] + subresource, event["verb"])
            # A quota or a namespace that is being deleted also answers 403: only the authorizer's decision counts.
            forbidden = event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
            answers = denied if forbidden else allowed
            answers.setdefault(request, set()).add((reference.get("namespace"), reference.get("name")))
    if not allowed:
        sys.exit(f"rbac: {audit} has no request of {user}; name the operator's account with --user")
    # An API server that has just started denies requests until it has read the rules.
    return set(allowed), {request for request, objects in denied.items() if objects - allowed.get(request, set())}


def describe(request: Request) -> str:
    group, resource, verb = request
    return f"{verb} of {resource} ({group or 'core'})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audit", type=Path, nargs="+", help="an audit log of the API server")
    parser.add_argument("--partial", action="store_true", help="the logs are not those of all suites")
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
        print(f"rbac: the chart does not grant {describe(request)}, which the operator requested", file=sys.stderr)
    for request in unused:
        print(f"rbac: the chart grants {describe(request)}, which no suite used", file=sys.stderr)
    for request in sorted(NEVER_CALLED & used):
        print(f"rbac: {describe(request)} is used; remove it from NEVER_CALLED", file=sys.stderr)
    if denied or NEVER_CALLED & used or (unused and not arguments.partial):
        sys.exit(1)
    print(f"rbac: {len(rules & used)} of {len(rules - NEVER_CALLED)} granted verbs were used, no request was denied")


if __name__ == "__main__":
    main()
