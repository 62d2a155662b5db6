#!/usr/bin/env bash
# Eight copies of one run, concurrently: all end with the same metrics in their status, those of the last line of metrics.jsonl.
set -euo pipefail
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../node.sh"
claims
export LIMIT=4 EPOCHS=2
copies=(a b c d e f g h)
for copy in "${copies[@]}"; do stage_one "$copy" 'pod: {}'; done
succeeded "${copies[@]/#/stageonerun/}"
k get stageoneruns --output json | python3 -c '
import json
import sys
runs = {run["metadata"]["name"]: run["status"] for run in json.load(sys.stdin)["items"]}
expected = None
for name, status in sorted(runs.items()):
    adapter = next(artifact for artifact in status["artifacts"] if artifact["kind"] == "Adapter")
    with open("{}/{}/metrics.jsonl".format(sys.argv[1], adapter["volume"]["path"])) as file:
        last = json.loads(file.readlines()[-1])
    # The speed of a step is no property of the run, and is not in the status.
    del last["tokens/s"]
    reported = {metric: float(value) for metric, value in status["progress"]["metrics"].items()}
    expected = expected or reported
    if not reported == last == expected:
        sys.exit(f"{name}: the status has {reported}, metrics.jsonl {last}, and the first run {expected}")
print(len(runs), "runs have", expected)
' "$(folder stic)"
