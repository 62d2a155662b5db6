"""Pauses a trainer (SIGSTOP), so that it stays in its step, and prints its process id.

A step of a test takes a tenth of a second. So this polls every few milliseconds, with the highest priority, and on every
processor, since a hypervisor may take one away for longer than that. The trainer is paused as soon as it handles SIGTERM, so that
it exits with 75 when it gets one; until then it runs for a fraction of a millisecond at a time. With --line-in it is paused once a
file that matches the pattern has a line.
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
# Processes that may still become a trainer.
STARTERS = ("runc", "exe", "containerd-shim")


def read(process: str, file: str) -> str:
    try:
        return Path("/proc", process, file).read_text().strip()
    except OSError:
        return ""  # The process has ended.


def field(process: str, name: str) -> str:
    found = re.search(rf"^{name}:\s*(\S+)", read(process, "status"), re.MULTILINE)
    return found[1] if found else ""


class Finder:
    """Looks for the trainer among the processes that are not known to be something else."""

    def __init__(self, run: str, step: str, index: str | None):
        tail = ".*" if index is None else f".*-{index}"
        self.hosts = re.compile(rf"{re.escape(run)}-{step}-{tail}")
        # The kubelet's log folder of a pod starts with the namespace.
        self.logs = f"{os.environ['CLUSTER_RUN']}/pod-logs/{os.environ['NAMESPACE']}"
        self.others: set[str] = set()

    def pause(self, until: float) -> str | None:
        """Waits for the trainer on every processor, and pauses it from the first that finds it."""
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
        found = os.read(answers, 1024).split()  # Empty when all have given up.
        for watcher in watchers:
            # So that none pauses a trainer that was continued.
            os.kill(watcher, signal.SIGKILL)
            os.waitpid(watcher, 0)
        return found[0].decode() if found else None

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


class Trainer:
    """A trainer process, running or paused."""

    def __init__(self, process: str, what: str):
        self.process = process
        self.what = what

    def field(self, name: str) -> str:
        """A field of its /proc status. Exits if the trainer has ended."""
        if field(self.process, "State") in ("", "Z", "X"):
            sys.exit(f"FAILED: {self.what} ended before it could be paused")
        return field(self.process, name)

    def handles_sigterm(self) -> bool:
        return bool(int(self.field("SigCgt") or "0", 16) & SIGTERM_BIT)

    def pause(self) -> None:
        os.kill(int(self.process), signal.SIGSTOP)
        while self.field("State") not in ("T", "t"):
            time.sleep(0.0002)

    def resume(self) -> None:
        os.kill(int(self.process), signal.SIGCONT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("step")
    parser.add_argument("index", nargs="?")
    parser.add_argument("--line-in", help="pattern of files to wait for")
    arguments = parser.parse_args()
    what = f"{arguments.step} of {arguments.run}"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    until = time.monotonic() + 120

    def wait(seconds: float) -> None:
        if time.monotonic() > until:
            sys.exit(f"FAILED: {what} did not start within 120 s: {arguments}")
        time.sleep(seconds)

    process = Finder(arguments.run, arguments.step, arguments.index).pause(until)
    if process is None:
        sys.exit(f"FAILED: {what} did not start within 120 s: {arguments}")
    trainer = Trainer(process, what)
    trainer.pause()
    while not trainer.handles_sigterm():
        trainer.resume()
        wait(0.0002)
        trainer.pause()
    if arguments.line_in:
        trainer.resume()
        while not any(Path(file).stat().st_size for file in glob.glob(arguments.line_in)):
            wait(0.002)
        trainer.pause()
    print(process)


if __name__ == "__main__":
    main()
