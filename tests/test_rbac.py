"""Tests of rbac.py, with audit events as an API server writes them and a chart that grants two verbs, and of the reader of
rendered roles in chart_permissions.py."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
import chart_permissions
import rbac

OPERATOR = "system:serviceaccount:stic-system:stic-operator"
LIST_JOBS = ("batch", "jobs", "list")
PATCH_STATUS = ("stic.dev", "stageoneruns/status", "patch")


def event(request: rbac.Request, user: str = OPERATOR, decision: str = "allow", name: str = "a") -> dict:
    group, resource, verb = request
    resource, _, subresource = resource.partition("/")
    reference = {"apiGroup": group, "resource": resource, "namespace": "n", "name": name}
    if subresource:
        reference["subresource"] = subresource
    return {"user": {"username": user}, "verb": verb, "objectRef": reference,
            "annotations": {"authorization.k8s.io/decision": decision}}


def run(*events: dict, partial: bool = False) -> tuple[int | str, str]:
    """The exit code and the output of rbac.py for these audit events."""
    with tempfile.TemporaryDirectory() as folder:
        audit = Path(folder, "audit.log")
        audit.write_text("".join(json.dumps(event) + "\n" for event in events))
        output = io.StringIO()
        arguments = ["rbac.py", str(audit)] + ["--partial"] * partial
        with (mock.patch.object(rbac, "granted", lambda: {LIST_JOBS, PATCH_STATUS}), mock.patch.object(sys, "argv", arguments),
              contextlib.redirect_stdout(output), contextlib.redirect_stderr(output)):
            try:
                rbac.main()
            except SystemExit as end:
                return end.code, output.getvalue()
        return 0, output.getvalue()


class Rbac(unittest.TestCase):
    def test_every_granted_verb_is_used(self) -> None:
        self.assertEqual(run(event(LIST_JOBS), event(PATCH_STATUS)),
                         (0, "rbac: 2 of 2 granted verbs were used, no request was denied\n"))

    def test_an_unused_verb_fails_unless_partial(self) -> None:
        unused = "rbac: the chart grants patch of stageoneruns/status (stic.dev), which no suite used\n"
        self.assertEqual(run(event(LIST_JOBS)), (1, unused))
        self.assertEqual(run(event(LIST_JOBS), partial=True)[0], 0)
        others = event(PATCH_STATUS, user="admin")
        self.assertEqual(run(event(LIST_JOBS), others), (1, unused), "an admin's use is not the operator's")

    def test_a_denied_request_fails(self) -> None:
        used = [event(LIST_JOBS), event(PATCH_STATUS)]
        denied = event(("", "secrets", "get"), decision="forbid")
        message = "rbac: the chart does not grant get of secrets (core), which the operator requested\n"
        self.assertEqual(run(*used, denied), (1, message))
        self.assertEqual(run(*used, denied, partial=True), (1, message))

    def test_an_incomplete_last_line_is_ignored(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            audit = Path(folder, "audit.log")
            audit.write_text(json.dumps(event(LIST_JOBS)) + '\n{"user": {"userna')
            self.assertEqual(rbac.requests(audit, OPERATOR), ({LIST_JOBS}, set()))

    def test_a_denial_before_the_same_request_was_allowed_is_ignored(self) -> None:
        early = event(LIST_JOBS, decision="forbid")
        self.assertEqual(run(early, event(LIST_JOBS), event(PATCH_STATUS))[0], 0)
        other = event(LIST_JOBS, decision="forbid", name="b")
        self.assertEqual(run(other, event(LIST_JOBS), event(PATCH_STATUS))[0], 1, "another object was denied")

    def test_a_request_in_never_called_fails(self) -> None:
        finalizers = event(("stic.dev", "stageoneruns/finalizers", "update"))
        code, output = run(event(LIST_JOBS), event(PATCH_STATUS), finalizers)
        self.assertEqual(code, 1)
        self.assertIn("remove it from NEVER_CALLED", output)

    def test_a_log_without_requests_of_the_operator_fails(self) -> None:
        code, _ = run(event(LIST_JOBS, user="admin"))
        self.assertIn("has no request of", str(code))


ROLES = """apiVersion: v1
kind: ServiceAccount
---
# Source: stic-operator/templates/rbac.yaml
kind: Role
metadata:
  name: a
  namespace: n
rules:
# Two lines
# of reasons.
- apiGroups: [stic.dev]
  resources: [stageoneruns, stageoneruns/status]
  verbs: [get]
# Core.
- apiGroups: [""]
  resources: [pods]
  resourceNames: [a]
  verbs: [get, list]
"""


class ChartPermissions(unittest.TestCase):
    def test_roles_are_read_with_their_reasons(self) -> None:
        runs, pods = "stageoneruns", "pods"
        self.assertEqual(chart_permissions.roles(ROLES), [chart_permissions.Role("Role", "n", (
            chart_permissions.Rule(("stic.dev",), (runs, f"{runs}/status"), ("get",), (), "Two lines of reasons."),
            chart_permissions.Rule(("",), (pods,), ("get", "list"), ("a",), "Core."),
        ))])

    def test_a_rule_in_another_form_is_an_error_and_not_skipped(self) -> None:
        for line in ("  verbs:", "  - get", "  nonResourceURLs: [/metrics]", '  verbs: ["*"] # all'):
            with self.assertRaises(SystemExit, msg=line):
                chart_permissions.roles(ROLES + line + "\n")
        with self.assertRaises(SystemExit):
            chart_permissions.roles("kind: ServiceAccount\n")

    def test_resources_are_spelled_as_kubectl_spells_them(self) -> None:
        self.assertEqual(chart_permissions.spell("stic.dev", "stageoneruns/status"), "stageoneruns.stic.dev/status")
        self.assertEqual(chart_permissions.spell("", "pods"), "pods")


if __name__ == "__main__":
    unittest.main()
