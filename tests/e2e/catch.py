"""Stops a trainer, so that it stays in its step, and prints its process.

A step of a test takes a tenth of a second, so this looks every few milliseconds, before whatever else wants the
processor, and on each of them: a machine's host may take one away for longer than that. A trainer is stopped as soon as it handles SIGTERM, and so ends with 75 when it is told to: until then it runs
for no more than a part of a millisecond at a time. With --line-in it is stopped once such a file has a line.
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

    def stopped(self, until: float) -> str | None:
        """Waits for the trainer on every processor, and stops it from the first that sees it."""
        answers, answer = os.pipe()
        watchers = []
        for processor in os.sched_getaffinity(0):
            watchers.append(os.fork())
            if watchers[-1] == 0:
                try:
                    os.sched_setaffinity(0, {processor})
                    while (process := self.trainer()) is None and time.monotonic() < until:
                        time.sleep(0.004)
                    if process:
                        os.kill(int(process), signal.SIGSTOP)
                        os.write(answer, f"{process} ".encode())
                finally:
                    os._exit(0)
        os.close(answer)
        seen = os.read(answers, 1024).split()  # None when all have given up.
        for watcher in watchers:
            # None stops a trainer that was let go again.
            os.kill(watcher, signal.SIGKILL)
            os.waitpid(watcher, 0)
        return seen[0].decode() if seen else None

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


class Caught:
    """A trainer, which runs or is stopped."""

    def __init__(self, process: str, what: str):
        self.process = process
        self.what = what

    def field(self, name: str) -> str:
        """Of its status. It ends the test where the trainer is over."""
        if field(self.process, "State") in ("", "Z", "X"):
            sys.exit(f"FAILED: {self.what} was over before it could be stopped")
        return field(self.process, name)

    def handles_sigterm(self) -> bool:
        return bool(int(self.field("SigCgt") or "0", 16) & SIGTERM_BIT)

    def stop(self) -> None:
        os.kill(int(self.process), signal.SIGSTOP)
        while self.field("State") not in ("T", "t"):
            time.sleep(0.0002)

    def let_go(self) -> None:
        os.kill(int(self.process), signal.SIGCONT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("step")
    parser.add_argument("index", nargs="?")
    parser.add_argument("--line-in", help="pattern of files")
    arguments = parser.parse_args()
    what = f"{arguments.step} of {arguments.run}"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    until = time.monotonic() + 120

    def pause(seconds: float) -> None:
        if time.monotonic() > until:
            sys.exit(f"FAILED: {what} was not there in 120 s: {arguments}")
        time.sleep(seconds)

    process = Seen(arguments.run, arguments.step, arguments.index).stopped(until)
    if process is None:
        sys.exit(f"FAILED: {what} was not there in 120 s: {arguments}")
    caught = Caught(process, what)
    caught.stop()
    while not caught.handles_sigterm():
        caught.let_go()
        pause(0.0002)
        caught.stop()
    if arguments.line_in:
        caught.let_go()
        while not any(Path(file).stat().st_size for file in glob.glob(arguments.line_in)):
            pause(0.002)
        caught.stop()
    print(process)


if __name__ == "__main__":
    main()
