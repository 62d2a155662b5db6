"""The controller's cost for N StageOneRuns, inside `cluster.sh --control-plane`. Prints one JSON object.

KWOK simulates the node and the pods; API server, scheduler and Job controller are Kubernetes' own. The operator runs with exactly
the chart's ServiceAccount and arguments.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
CHART = HERE.parents[2] / "charts/stic-operator"
RUN = Path(os.environ["CLUSTER_RUN"])
NAMESPACE = "bench"
ACCOUNT = "system:serviceaccount:stic-system:stic-operator"
TICKS = os.sysconf("SC_CLK_TCK")
DIGEST = "sha256:" + "0" * 64


def sh(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, text=True, check=True, stdout=subprocess.PIPE).stdout


def artifact(kind: str, step: str) -> dict:
    location = {"volume": "stic", "path": f"bench/{kind.lower()}-0123456789abcdef"}
    return {"kind": kind, "location": location, "digest": DIGEST, "sizeBytes": 1000, "step": step, "reused": False}


def results() -> dict[str, dict]:
    """The termination messages of the trainer's steps (contract/src/result.rs)."""
    items = {"total": 6000, "done": 5998, "skipped": 2}
    return {
        "prepare": {"step": "prepare", "artifacts": [artifact("Prepared", "prepare")], "items": items,
                    "inputs": {"model": DIGEST, "items": DIGEST, "itemCount": 5998}},
        "generate": {"step": "generate", "items": items, "shards": {"folder": "preferences-0123456789abcdef", "shards": 1}},
        "train": {"step": "train", "artifacts": [artifact("Preferences", "generate"), artifact("Adapter", "train")],
                  "metrics": {"loss": "0.612", "rewards/margins": "0.914"}},
    }


def restart_with(name: str, flags: str) -> None:
    script = RUN / "components" / name
    script.write_text(script.read_text().rstrip() + f" {flags}\n")
    sh("component.sh", "restart", name)


def raise_priority() -> None:
    """As root, gives the components priority over other work on the machine."""
    for pid in (RUN / "pids").iterdir():
        try:
            Path(f"/proc/{pid.read_text().strip()}/autogroup").write_text("-15")
        except OSError:
            return


def set_up(work: Path) -> subprocess.Popen:
    stages = (HERE / "stages.yaml").read_text()
    for step, result in results().items():
        stages = stages.replace(f"@{step}@", json.dumps(result))
    (work / "stages.yaml").write_text(stages)
    # KWOK requests streamed lists, which etcd before 3.5.8 does not support; if they are refused at once, it lists instead.
    restart_with("kube-apiserver", "--feature-gates=WatchList=false")
    for _ in range(300):
        if subprocess.run(["kubectl", "get", "--raw", "/readyz"], capture_output=True).returncode == 0:
            break
        time.sleep(0.1)
    raise_priority()
    # The same for KWOK's own client.
    environment = {**os.environ, "KUBE_FEATURE_WatchListClient": "false"}
    with (RUN / "log/kwok.log").open("w") as log:
        kwok = subprocess.Popen(
            ["kwok", "--kubeconfig", os.environ["KUBECONFIG"], "--config", work / "stages.yaml", "--manage-all-nodes",
             "--node-lease-duration-seconds=40", "--server-address=127.0.0.1:0"], env=environment, stdout=log, stderr=log)
    sh("kubectl", "create", "--filename=-", text=json.dumps({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "simulated"}}))
    for namespace in (NAMESPACE, "stic-system"):
        sh("kubectl", "create", "namespace", namespace)
    rendered = sh("helm", "template", "stic-operator", str(CHART), "--namespace", "stic-system")
    # Without the Deployment, which no kubelet would run.
    parts = [part for part in rendered.split("\n---\n") if not re.search(r"^kind: (Deployment|Service|PodDisruptionBudget)$", part, re.M)]
    sh("kubectl", "apply", "--server-side", "--filename=-", text="\n---\n".join(parts))
    sh("kubectl", "wait", "--for=condition=Established", "crd/stageoneruns.stic.dev", "crd/stagetworuns.stic.dev", "--timeout=60s")
    # Bound to volumes, because the scheduler does not bind pods with unbound claims.
    for claim in ("models", "images", "stic"):
        volume = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany"], "storageClassName": "simulated",
                  "nfs": {"server": "nowhere", "path": "/"}, "claimRef": {"namespace": NAMESPACE, "name": claim}}
        wanted = {"accessModes": ["ReadWriteMany"], "storageClassName": "simulated", "volumeName": claim,
                  "resources": {"requests": {"storage": "1Gi"}}}
        for kind, spec in (("PersistentVolume", volume), ("PersistentVolumeClaim", wanted)):
            sh("kubectl", "--namespace", NAMESPACE, "create", "--filename=-", text=json.dumps(
                {"apiVersion": "v1", "kind": kind, "metadata": {"name": claim}, "spec": spec}))
    sh("kubectl", "--namespace", NAMESPACE, "wait", "persistentvolumeclaim", "--all", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s")
    return kwok


def operator(binary: str, work: Path, port: int) -> subprocess.Popen:
    token = sh("kubectl", "--namespace", "stic-system", "create", "token", "stic-operator", "--duration=24h").strip()
    config = json.loads(sh("kubectl", "config", "view", "--raw", "--output=json"))
    config["users"][0]["user"] = {"token": token}
    (work / "operator.kubeconfig").write_text(json.dumps(config))
    environment = {**os.environ, "KUBECONFIG": str(work / "operator.kubeconfig"), "POD_NAMESPACE": "stic-system", "POD_NAME": "bench"}
    with (RUN / "log/stic-operator.log").open("a") as log:
        return subprocess.Popen(
            [binary, "--trainer-image=stic.dev/stic-trainer:bench", f"--listen=127.0.0.1:{port}", "--leader-election=true",
             "--lease-name=stic-operator"], env=environment, stderr=log)


def usage(pid: int) -> dict[str, float]:
    status = dict(re.findall(r"^(VmHWM|VmRSS|Threads):\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M))
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return {"cpu_s": (int(fields[11]) + int(fields[12])) / TICKS, "rss_mb": int(status["VmRSS"]) / 1024,
            "peak_mb": int(status["VmHWM"]) / 1024, "threads": int(status["Threads"])}


def metrics(port: int) -> str:
    return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()


def value(text: str, pattern: str) -> float:
    return sum(float(found) for found in re.findall(rf"^{pattern} ([0-9.e+-]+)$", text, re.M))


def quantiles(text: str, name: str) -> dict[str, float]:
    """In milliseconds, interpolated within a bucket like Prometheus' histogram_quantile."""
    buckets = sorted((float(bound), float(count)) for bound, count in re.findall(
        rf'^{name}_bucket{{kind="StageOneRun",le="([0-9.e+-]+|\+Inf)"}} (\d+)$', text, re.M))
    answer = {}
    for quantile in (0.5, 0.9, 0.99):
        rank, below, low = quantile * (buckets[-1][1] if buckets else 0), 0.0, 0.0
        for bound, count in buckets:
            if count >= rank and count > below:
                bound = low if bound == float("inf") else bound
                answer[f"p{quantile * 100:g}_ms"] = round(1000 * (low + (bound - low) * (rank - below) / (count - below)), 2)
                break
            below, low = count, bound
    return answer


def apply(count: int, rate: float) -> None:
    """Applies the runs: `rate` per second, or all at once if it is 0."""
    def manifest(number: int) -> str:
        return json.dumps({
            "apiVersion": "stic.dev/v1alpha1", "kind": "StageOneRun", "metadata": {"name": f"run-{number:05}"},
            "spec": {"model": {"volume": {"claimName": "models", "path": "llava"}},
                     "images": {"volume": {"claimName": "images", "path": "train2014"}, "limit": 6000},
                     "output": {"volume": {"claimName": "stic", "path": f"run-{number:05}"}}}})
    began, size = time.monotonic(), max(1, round(rate * 2)) if rate else 500
    for first in range(0, count, size):
        if rate:
            time.sleep(max(0.0, began + first / rate - time.monotonic()))
        sh("kubectl", "--namespace", NAMESPACE, "create", "--filename=-",
           text="\n---\n".join(manifest(number) for number in range(first, min(first + size, count))))


def audit(runs: int) -> dict:
    """The operator's requests by the API server's audit log, without watches and the lease."""
    counts: Counter[str] = Counter()
    path = RUN / "log/audit.log"
    for line in path.open():
        if ACCOUNT not in line:
            continue
        event = json.loads(line)
        reference = event.get("objectRef", {})
        if event["user"]["username"] != ACCOUNT or event["verb"] == "watch" or reference.get("resource") == "leases":
            continue
        sub = f"/{reference['subresource']}" if "subresource" in reference else ""
        counts[f"{event['verb']} {reference.get('resource', event['requestURI'])}{sub}"] += 1
    reads = sum(count for name, count in counts.items() if name.split()[0] in ("get", "list"))
    return {"writes_per_run": round((sum(counts.values()) - reads) / runs, 2), "reads_per_run": round(reads / runs, 2),
            "requests_per_run": {name: round(count / runs, 3) for name, count in counts.most_common()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int)
    parser.add_argument("--rate", type=float, default=0, help="runs applied per second; 0: all at once")
    parser.add_argument("--operator", required=True, help="the operator, built in release mode")
    parser.add_argument("--limit", type=float, default=3600, help="seconds until the benchmark fails")
    arguments = parser.parse_args()
    work = RUN / "bench"
    work.mkdir()
    port = 18_000 + os.getpid() % 10_000
    kwok = set_up(work)
    process = operator(arguments.operator, work, port)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                if value(metrics(port), "stic_leader") == 1:
                    break
            except OSError:
                pass
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"the operator did not become leader: {(RUN / 'log/stic-operator.log').read_text()[-2000:]}")
            time.sleep(0.1)
        manager = int((RUN / "pids/kube-controller-manager").read_text())
        idle, manager_before = usage(process.pid), usage(manager)
        began = time.monotonic()
        apply(arguments.runs, arguments.rate)
        applied = time.monotonic() - began
        done = 'stic_run_transitions_total{kind="StageOneRun",reason="Succeeded"}'
        while (count := value(metrics(port), re.escape(done))) < arguments.runs:
            if time.monotonic() - began > arguments.limit:
                sys.exit(f"only {count:g} of {arguments.runs} runs succeeded within {arguments.limit:g} s")
            time.sleep(1)
        took = time.monotonic() - began
        # Work after the end of the last run is part of the cost.
        time.sleep(10)
        after, manager_after, text = usage(process.pid), usage(manager), metrics(port)
        cpu = after["cpu_s"] - idle["cpu_s"]
        counted = audit(arguments.runs)
        process.send_signal(signal.SIGKILL)
        process.wait()
        # A restarted operator lists everything.
        process = operator(arguments.operator, work, port)
        again = 0.0
        until, last = time.monotonic() + 60, -1.0
        while time.monotonic() < until:
            time.sleep(1)
            try:
                again = value(metrics(port), r"stic_reconciles_total\{.*\}")
            except OSError:
                continue
            if again >= arguments.runs and again == last:
                break
            last = again
        restarted = usage(process.pid)
        print(json.dumps({
            "runs": arguments.runs, "rate": arguments.rate, "applied_s": round(applied, 1), "succeeded_s": round(took, 1),
            "idle": idle, "after": after, "restarted": restarted,
            "cpu_s": round(cpu, 2), "cpu_ms_per_run": round(1000 * cpu / arguments.runs, 2),
            "controller_manager": {"cpu_ms_per_run": round(1000 * (manager_after["cpu_s"] - manager_before["cpu_s"]) / arguments.runs, 2),
                                   "rss_mb": manager_after["rss_mb"], "peak_mb": manager_after["peak_mb"]},
            "reconcile": quantiles(text, "stic_reconcile_duration_seconds"), "busy": quantiles(text, "stic_reconcile_busy_seconds"),
            "reconciles_per_run": round(value(text, r"stic_reconciles_total\{.*\}") / arguments.runs, 2),
            "not_ok": value(text, r'stic_reconciles_total\{.*result="(?:error|conflict)"\}'),
            "writes_per_run": round(value(text, r"stic_api_writes_total\{.*\}") / arguments.runs, 2),
            "audit": counted}))
    finally:
        process.kill()
        kwok.kill()


if __name__ == "__main__":
    main()
