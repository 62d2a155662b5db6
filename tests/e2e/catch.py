"""Stops a trainer, so that it stays in its step, and prints its process.

A step of a test takes a tenth of a second, so this looks every few milliseconds. A trainer is stopped as soon as it
handles SIGTERM, and so ends with 75 when it is told to; with --line-in, once such a file has a line.
"""

import argparse
import glob
import os
import re
import signal
import sys
import time
from pathlib import Path

SIGTERM_BIT = 1 << (signal.SIGTERM - 1)
# What may yet become a trainer.
STARTERS = ("runc", "exe", "containerd-shim")


def read(process: str, file: str) -> str:
    try:
        return Path("/proc", process, file).read_text().strip()
    except OSError:
        return ""  # It is over.


def field(process: str, name: str) -> str:
    found = re.search(rf"^{name}:\s*(\S+)", read(process, "status"), re.MULTILINE)
    return found[1] if found else ""


class Seen:
    """Looks for the trainer among the processes that were not seen to be something else."""

    def __init__(self, run: str, step: str, index: str | None):
        tail = ".*" if index is None else f".*-{index}"
        self.hosts = re.compile(rf"{re.escape(run)}-{step}-{tail}")
        # The kubelet's folder of a pod's logs starts with the namespace.
        self.logs = f"{os.environ['CLUSTER_RUN']}/pod-logs/{os.environ['NAMESPACE']}"
        self.others: set[str] = set()

    def trainer(self) -> str | None:
        for process in os.listdir("/proc"):
            if not process.isdigit() or process in self.others:
                continue
            name = read(process, "comm")
            if name == "stic-trainer":
                host = read(process, "root/etc/hostname")
                if not host:
                    continue
                if self.hosts.fullmatch(host) and glob.glob(f"{self.logs}_{host}[-_]*"):
                    return process
            if not name.startswith(STARTERS):
                self.others.add(process)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("step")
    parser.add_argument("index", nargs="?")
    parser.add_argument("--line-in", help="pattern of files")
    arguments = parser.parse_args()
    what = f"{arguments.step} of {arguments.run}"
    seen = Seen(arguments.run, arguments.step, arguments.index)
    until = time.monotonic() + 120
    process = None
    while True:
        if time.monotonic() > until:
            sys.exit(f"FAILED: {what} was not there in 120 s: {arguments}")
        if process is None:
            process = seen.trainer()
        elif field(process, "State") in ("", "Z", "X"):
            sys.exit(f"FAILED: {what} was over before it could be stopped: {arguments}")
        elif not int(field(process, "SigCgt") or "0", 16) & SIGTERM_BIT:
            pass
        elif arguments.line_in is None or any(Path(file).stat().st_size for file in glob.glob(arguments.line_in)):
            break
        time.sleep(0.01 if process is None else 0.002)
    os.kill(int(process), signal.SIGSTOP)
    while field(process, "State") not in ("T", "t"):
        if field(process, "State") in ("", "Z", "X"):
            sys.exit(f"FAILED: {what} was over before it could be stopped")
        time.sleep(0.002)
    print(process)


if __name__ == "__main__":
    main()
