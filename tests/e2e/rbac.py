"""Holds what the operator asked of the API server, by the audit log of a suite, against the rules of its chart.

A request that was denied fails the suite: the chart lacks a verb. A verb that nothing used is printed, as the suite may
not reach it.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

CHART = Path(__file__).parents[2] / "charts/stic-operator"
# Asked for by admission plugins that not every cluster has.
NEVER_CALLED = {("stic.dev", "stageoneruns/finalizers", "update"), ("stic.dev", "stagetworuns/finalizers", "update")}


def granted() -> set[tuple[str, str, str]]:
    command = ["kubectl", "create", "--dry-run=client", "--output=json", "--filename=-"]
    rendered = subprocess.run(["helm", "template", "stic-operator", CHART], capture_output=True, text=True, check=True)
    roles = [text for text in rendered.stdout.split("\n---\n") if "\nkind: ClusterRole\n" in text or "\nkind: Role\n" in text]
    rules = set()
    for role in roles:
        made = subprocess.run(command, input=role, capture_output=True, text=True, check=True)
        for rule in json.loads(made.stdout)["rules"]:
            rules |= {
                (group, resource, verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    return rules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("audit", type=Path, help="the API server's audit log")
    parser.add_argument("--user", default="system:serviceaccount:stic-system:stic-operator")
    arguments = parser.parse_args()
    used, denied = set(), set()
    for line in arguments.audit.read_text().splitlines():
        event = json.loads(line)
        reference = event.get("objectRef", {})
        if event["user"]["username"] != arguments.user or "resource" not in reference:
            continue
        subresource = f"/{reference['subresource']}" if "subresource" in reference else ""
        request = (reference.get("apiGroup", ""), reference["resource"] + subresource, event["verb"])
        used.add(request)
        if event.get("responseStatus", {}).get("code") == 403 and "quota" not in event["responseStatus"].get("message", ""):
            denied.add(request)
    if not used:
        sys.exit(f"{arguments.audit}: {arguments.user} asked for nothing; name the operator's account with --user")
    for request in sorted(granted() - used - NEVER_CALLED):
        print(f"rbac: no case used {request[2]} of {request[1]} ({request[0] or 'core'})")
    if denied:
        sys.exit(f"rbac: the chart does not grant {sorted(denied)}, which the operator asked for")
    print(f"rbac: {len(used)} kinds of request, none denied")


if __name__ == "__main__":
    main()
