"""Child processes: what they took, and what the machine did beside them.

    process.py CPU,CPU COMMAND...       runs the command there, and prints what it took as the last line of its log

The kernel counts what a process held before it became another program as that program's memory. A benchmark holds
libraries by the hundred megabytes, so what it measures is started by this file, a process of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Ended:
    """A child process that ended well."""

    output: str
    peak_rss_bytes: int
    peak_gpu_bytes: int  # 0 where there is none
    others_share: float  # of all CPU time of the machine while it ran: what other processes took
    stolen_share: float  # what the host gave to other machines
    ended: float  # seconds since the epoch


def run(command: list[object], threads: int, on_log: Callable[[str], None] = lambda line: None) -> Ended:
    """Runs a command on `threads` CPUs; each line that it logs is given to `on_log` as it comes."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    begun, (busy, stolen) = time.time(), _cpu_seconds()
    starter = [sys.executable, "-S", __file__, ",".join(map(str, cpus))]
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
    if code != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\nexit code {code}\n{''.join(logged[-30:])}")
    took = json.loads(logged[-1])
    busy_now, stolen_now = _cpu_seconds()
    available = (ended - begun) * (os.cpu_count() or 1)
    others_share = max(0.0, busy_now - busy - took["cpu_seconds"]) / available
    stolen_share = (stolen_now - stolen) / available
    return Ended(output, took["peak_rss_bytes"], gpu.peak, others_share, stolen_share, ended)


def _start(cpus: str, command: list[str]) -> int:
    """Runs the command and says what it took; returns its exit code."""
    os.sched_setaffinity(0, map(int, cpus.split(",")))
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    took = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_rss_bytes": usage.ru_maxrss * 1024}
    print(json.dumps(took), file=sys.stderr)
    return os.waitstatus_to_exitcode(status)


class _GpuMemory:
    """The most memory that is taken on the first GPU while the block runs, above what was taken before."""

    def __enter__(self) -> "_GpuMemory":
        self.peak, self._before, self._over = 0, self._used(), threading.Event()
        self._watch = threading.Thread(target=self._sample)
        if self._before is not None:
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._before is not None:
            self._watch.join()

    def _sample(self) -> None:
        while not self._over.wait(0.2):
            self.peak = max(self.peak, (self._used() or 0) - self._before)

    @staticmethod
    def _used() -> int | None:
        if shutil.which("nvidia-smi") is None:
            return None
        query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        asked = subprocess.run(query, capture_output=True, text=True)
        return int(asked.stdout) * 2**20 if asked.returncode == 0 else None


def _cpu_seconds() -> tuple[float, float]:
    """CPU seconds since the machine started: those that all processes have taken, and those that its host gave to others
    while they were wanted."""
    ticks = map(int, Path("/proc/stat").read_text().split()[1:9])
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


def cpu_model() -> str:
    """As /proc/cpuinfo names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(_start(sys.argv[1], sys.argv[2:]))
