"""Child processes: their time and memory, and what else the machine did meanwhile.

    process.py CPU,CPU SECONDS COMMAND...   runs the command on these CPUs, for so long at most (inf), and logs its time and
                                            memory as the last line

The kernel counts the memory of a process before exec as that of the new program. A benchmark has hundreds of megabytes of
libraries, so it starts what it measures with this file, as a process in between.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CompletedProcess:
    """A child process that succeeded."""

    output: str
    peak_rss_bytes: int
    peak_gpu_bytes: int  # 0 without a GPU
    others_share: float  # of the machine's CPU time while it ran: what other processes took
    stolen_share: float  # what the hypervisor gave to other machines
    started: float  # seconds since the epoch
    ended: float


class TimeLimitError(Exception):
    """A child process was killed because it took too long."""


def run(
    command: list[object], threads: int, on_log: Callable[[str], None] = lambda line: None, limit: float = math.inf
) -> CompletedProcess:
    """Runs a command on `threads` CPUs for `limit` seconds at most, and calls `on_log` with each line that it logs."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    started, (busy, stolen) = time.time(), _cpu_seconds()
    starter = [sys.executable, "-S", __file__, ",".join(map(str, cpus)), str(limit)]
    child = subprocess.Popen(
        [*starter, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    logged = []
    with _GpuMemory() as gpu:
        for line in child.stderr:
            logged.append(line)
            on_log(line)
        output = child.stdout.read()
    code, ended = child.wait(), time.time()
    if code != 0 and ended - started >= limit:
        raise TimeLimitError
    if code != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\nexit code {code}\n{''.join(logged[-30:])}")
    took = json.loads(logged[-1])
    busy_now, stolen_now = _cpu_seconds()
    available = (ended - started) * (os.cpu_count() or 1)
    others_share = max(0.0, busy_now - busy - took["cpu_seconds"]) / available
    stolen_share = (stolen_now - stolen) / available
    return CompletedProcess(output, took["peak_rss_bytes"], gpu.peak, others_share, stolen_share, started, ended)


def _start(cpus: str, limit: str, command: list[str]) -> int:
    """Runs the command, logs its time and memory, and returns its exit code."""
    os.sched_setaffinity(0, map(int, cpus.split(",")))
    child = os.posix_spawnp(command[0], command, os.environ)
    killer = threading.Timer(max(0.0, min(float(limit), threading.TIMEOUT_MAX)), os.kill, (child, signal.SIGKILL))
    killer.start()
    _, status, usage = os.wait4(child, 0)
    killer.cancel()
    took = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_rss_bytes": usage.ru_maxrss * 1024}
    print(json.dumps(took), file=sys.stderr)
    return os.waitstatus_to_exitcode(status)


class _GpuMemory:
    """The peak memory of the first GPU while the block runs, minus what was used before."""

    def __enter__(self) -> "_GpuMemory":
        self.peak, self._before, self._done = 0, self._used(), threading.Event()
        self._watch = threading.Thread(target=self._sample)
        if self._before is not None:
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._before is not None:
            self._watch.join()

    def _sample(self) -> None:
        while not self._done.wait(0.2):
            self.peak = max(self.peak, (self._used() or 0) - self._before)

    @staticmethod
    def _used() -> int | None:
        if shutil.which("nvidia-smi") is None:
            return None
        query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True)
        return int(answer.stdout) * 2**20 if answer.returncode == 0 else None


def _cpu_seconds() -> tuple[float, float]:
    """CPU seconds since boot: used by all processes, and stolen by the hypervisor."""
    ticks = map(int, Path("/proc/stat").read_text().split()[1:9])
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


def cpu_model() -> str:
    """The processor's name in /proc/cpuinfo."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(_start(sys.argv[1], sys.argv[2], sys.argv[3:]))
