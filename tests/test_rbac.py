"""Tests of rbac.py, with audit events as an API server writes them and the rules of a chart of two verbs."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
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


def judged(*events: dict, partial: bool = False) -> tuple[int | str, str]:
    """The exit code, and what was said."""
    with tempfile.TemporaryDirectory() as folder:
        audit = Path(folder, "audit.log")
        audit.write_text("".join(json.dumps(event) + "\n" for event in events))
        said = io.StringIO()
        arguments = ["rbac.py", str(audit)] + ["--partial"] * partial
        with (mock.patch.object(rbac, "granted", lambda: {LIST_JOBS, PATCH_STATUS}), mock.patch.object(sys, "argv", arguments),
              contextlib.redirect_stdout(said), contextlib.redirect_stderr(said)):
            try:
                rbac.main()
            except SystemExit as end:
                return end.code, said.getvalue()
        return 0, said.getvalue()


class Rbac(unittest.TestCase):
    def test_all_that_is_granted_is_used(self) -> None:
        self.assertEqual(judged(event(LIST_JOBS), event(PATCH_STATUS)),
                         (0, "rbac: 2 of 2 granted verbs were used, none was denied\n"))

    def test_what_nothing_used_fails_unless_the_logs_are_not_all(self) -> None:
        unused = "rbac: the chart grants patch of stageoneruns/status (stic.dev), which nothing used\n"
        self.assertEqual(judged(event(LIST_JOBS)), (1, unused))
        self.assertEqual(judged(event(LIST_JOBS), partial=True)[0], 0)
        others = event(PATCH_STATUS, user="admin")
        self.assertEqual(judged(event(LIST_JOBS), others), (1, unused), "an admin's use is not the operator's")

    def test_what_was_denied_fails(self) -> None:
        used = [event(LIST_JOBS), event(PATCH_STATUS)]
        denied = event(("", "secrets", "get"), decision="forbid")
        said = "rbac: the chart does not grant get of secrets (core), which the operator asked for\n"
        self.assertEqual(judged(*used, denied), (1, said))
        self.assertEqual(judged(*used, denied, partial=True), (1, said))

    def test_a_line_that_is_being_written_is_left_out(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            audit = Path(folder, "audit.log")
            audit.write_text(json.dumps(event(LIST_JOBS)) + '\n{"user": {"userna')
            self.assertEqual(rbac.requests(audit, OPERATOR), ({LIST_JOBS}, set()))

    def test_what_a_young_api_server_denied_and_then_allowed_is_granted(self) -> None:
        early = event(LIST_JOBS, decision="forbid")
        self.assertEqual(judged(early, event(LIST_JOBS), event(PATCH_STATUS))[0], 0)
        other = event(LIST_JOBS, decision="forbid", name="b")
        self.assertEqual(judged(other, event(LIST_JOBS), event(PATCH_STATUS))[0], 1, "another object was denied")

    def test_a_verb_that_is_never_called_is_called(self) -> None:
        finalizers = event(("stic.dev", "stageoneruns/finalizers", "update"))
        code, said = judged(event(LIST_JOBS), event(PATCH_STATUS), finalizers)
        self.assertEqual(code, 1)
        self.assertIn("take it out of NEVER_CALLED", said)

    def test_a_log_without_the_operator_is_not_taken_for_one(self) -> None:
        code, _ = judged(event(LIST_JOBS, user="admin"))
        self.assertIn("asked for nothing", str(code))


if __name__ == "__main__":
    unittest.main()
