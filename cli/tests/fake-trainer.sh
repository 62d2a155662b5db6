#!/usr/bin/env bash
# A fake trainer for tests of its supervision: it follows the contract (arguments, progress, result, artifacts, exit codes)
# and does no work. The folder FAKE_DIR controls it and records its calls:
#   calls         written: a line per call with step and shard
#   fail-STEP     the exit code and the message that the step ends with
#   slow-STEP     the step runs until SIGTERM
#   stubborn-STEP the step ignores SIGTERM
set -euo pipefail
while [ $# -gt 0 ]; do
  case "$1" in
    step) shift ;;
    --config) config=$2; shift 2 ;;
    --volumes) volumes=$2; shift 2 ;;
    --shard-index) shard=$2; shift 2 ;;
    --result) result=$2; shift 2 ;;
    *) echo "unknown argument $1" >&2; exit 64 ;;
  esac
done
exec python3 - "$config" "$volumes" "$shard" "$result" <<'PYTHON'
import hashlib, json, os, pathlib, signal, sys, time

config_path, volumes, shard, result_path = sys.argv[1:]
switches = pathlib.Path(os.environ["FAKE_DIR"])
config = json.loads(pathlib.Path(config_path).read_text())
step = next(iter(config["task"]))
task = config["task"][step]
output = pathlib.Path(volumes) / config["output"]["volume"] / config["output"]["path"]
partial = output / ".partial" / f"{config['run']['uid']}-{config['run']['rerun']}"
partial.mkdir(parents=True, exist_ok=True)
print(f"step {step} of {config['run']['name']} started", file=sys.stderr)


def end(code, **fields):
    result = {"step": step, "artifacts": [], "metrics": {}, **fields}
    pathlib.Path(result_path).write_text(json.dumps(result))
    sys.exit(code)


def progress(current, total, **metrics):
    path = partial / f"{step}-{int(shard):05}.progress.json"
    text = json.dumps({
        "step": step, "activity": step, "current": current, "total": total, "unit": "items",
        "ratePerSecond": 10.0, "estimatedRemainingSeconds": (total - current) // 10, "metrics": metrics,
        "skipped": 0, "updated": int(time.time()),
    })
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


def artifact(kind, step):
    payload = {"Prepared": "items.jsonl", "Preferences": "preferences.jsonl",
               "Descriptions": "descriptions.jsonl", "Adapter": "adapter_model.safetensors"}[kind]
    content = json.dumps([kind, config["run"]["kind"], config["seed"]]).encode()
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    name = f"{kind.lower()}-{digest[7:23]}"
    folder = output / name
    reused = (folder / "_SUCCESS.json").exists()
    folder.mkdir(exist_ok=True)
    (folder / payload).write_bytes(content)
    marker = {"kind": kind, "digest": digest, "sizeBytes": len(content), "step": step, "madeFrom": {},
              "facts": {}, "createdBy": {"uid": config["run"]["uid"], "rerun": config["run"]["rerun"]},
              "madeWith": {}}
    (folder / "_SUCCESS.json").write_text(json.dumps(marker))
    location = {"volume": config["output"]["volume"],
                "path": "/".join(part for part in [config["output"]["path"], name] if part)}
    return {"kind": kind, "location": location, "digest": digest, "sizeBytes": len(content), "step": step,
            "reused": reused}


def stop(*_):
    with open(switches / "calls", "a") as calls:
        calls.write("SIGTERM\n")
    if not (switches / f"stubborn-{step}").exists():
        end(75, message="interrupted")


signal.signal(signal.SIGTERM, stop)
# A test that waits for this call may send a signal immediately, so the handler is installed before.
with open(switches / "calls", "a") as calls:
    calls.write(f"{config['run']['kind']} {step} {shard}\n")
progress(0, 10)
fail = switches / f"fail-{step}"
if fail.exists():
    code, message = fail.read_text().split(" ", 1)
    end(int(code), message=message.strip())
if (switches / f"slow-{step}").exists() or (switches / f"stubborn-{step}").exists():
    for i in range(600):
        progress(min(i, 9), 10, loss=0.6)
        time.sleep(0.1)
    sys.exit(1)
delay = float(os.environ.get("FAKE_DELAY", "0"))
for i in range(1, 11):
    time.sleep(delay)
    metrics = {"loss": 0.7 - i / 100, "rewards/margins": i / 50} if step == "train" else {}
    progress(i, 10, **metrics)
digest = "sha256:" + "0" * 64
items = {"total": 10, "done": 10, "skipped": 0}
if step == "prepare":
    adapter = task.get("adapter")
    inputs = {"model": digest, "items": digest, "itemCount": 10}
    if adapter:
        inputs["adapter"] = adapter["digest"] or digest
    if (switches / "skip").exists():
        items = {"total": 10, "done": 8, "skipped": 2}
    end(0, artifacts=[artifact("Prepared", "prepare")], inputs=inputs, items=items)
elif step in ("generate", "describe"):
    folder = "preferences-0000" if step == "generate" else "descriptions-0000"
    (partial / folder).mkdir(exist_ok=True)
    end(0, shards={"folder": folder, "shards": task["shards"]}, items=items)
else:
    kind, producer = ("Preferences", "generate") if config["run"]["kind"] == "StageOneRun" else ("Descriptions", "describe")
    end(0, artifacts=[artifact(kind, producer), artifact("Adapter", "train")], metrics={"loss": "0.6"})
PYTHON
