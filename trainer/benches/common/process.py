"""Child processes: what they took, and what the machine did beside them."""

import os
import shutil
import subprocess
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
    ended: float  # seconds since the epoch


def run(command: list[object], threads: int, on_log: Callable[[str], None] = lambda line: None) -> Ended:
    """Runs a command on `threads` CPUs; each line that it logs is given to `on_log` as it comes."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    begun, busy = time.time(), _busy_seconds()
    child = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    logged = []
    with _GpuMemory() as gpu:
        for line in child.stderr:
            logged.append(line)
            on_log(line)
        output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it once more
    ended = time.time()
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\nexit code {child.returncode}\n{''.join(logged[-30:])}")
    others = _busy_seconds() - busy - usage.ru_utime - usage.ru_stime
    available = (ended - begun) * (os.cpu_count() or 1)
    return Ended(output, usage.ru_maxrss * 1024, gpu.peak, max(0.0, others / available), ended)


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


def _busy_seconds() -> float:
    """CPU seconds that all processes have taken since the machine started, stolen time left out."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / TICK


def cpu_model() -> str:
    """As /proc/cpuinfo names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
