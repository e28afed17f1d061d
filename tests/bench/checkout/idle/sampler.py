"""Samples what processes do at random moments: `python -m tests.bench.checkout.idle.sampler FILE [GROUP=PID ...]`.

It waits for the first wrk that its parent starts, samples until its standard input is closed, and then writes the
samples to FILE. It is a process of its own, so that it
never waits for the load. Linux only: a sample reads /proc/PID/syscall of each process (of its main thread), which names
the system call in which the process sleeps. The number of runnable threads in /proc/loadavg would cost less, but since
Linux 6.12 it also counts threads that have just gone to sleep, on a busy machine some tenths more than run.
"""

import json
import os
import platform
import random
import select
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

# Random, so that no sample keeps step with the load or with the kernel's clock tick. At this rate, samples use some
# percent of one core, which the sampler measures and the report prints.
INTERVAL_SECONDS = (0.002, 0.004)
PRIORITY = 50  # above a load that runs with a real-time priority itself (chrt --rr 5)
# The states of a process at a moment.
RUNS, SYNCS, LOCKED, SLEEPS = "R", "D", "L", "S"
# Numbers of system calls, by architecture. A process that sleeps in any other call waits for input or for a timer.
SYNC_CALLS = {"x86_64": {74, 75, 277}, "aarch64": {82, 83, 84}}  # fsync, fdatasync, sync_file_range
LOCK_CALLS = {"x86_64": {202}, "aarch64": {98}}  # futex: Postgres' semaphores, and locks of threads


def state(text: bytes, syncs: set[int], locks: set[int]) -> str:
    """Return the state that a line of /proc/PID/syscall describes.

    A process that waits for a core is "running" too. -1: it sleeps outside of a system call, for a page of memory.
    """
    first = text.partition(b" ")[0].strip()
    if first == b"running":
        return RUNS
    number = int(first)
    return SYNCS if number in syncs else LOCKED if number in locks or number == -1 else SLEEPS


def idle_seconds() -> float:
    """Return the idle time of all cores since the start of the machine, also while the disk works."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def wrk_threads() -> list[int]:
    """Return the threads of every wrk that this process' parent has started, as soon as there is one.

    wrk's main thread only waits for the others, so each of them counts as a process.
    """
    while not _closed(0.01):
        found = [child for child in psutil.Process(os.getppid()).children() if child.name() == "wrk"]
        threads = [thread.id for child in found for thread in child.threads() if thread.id != child.pid]
        if threads:
            return threads
    return []


def sample(processes: Sequence[tuple[str, int]]) -> Mapping[str, object]:
    """Sample these processes, each with the name of its group, until standard input is closed."""
    machine = platform.machine()
    syncs, locks = SYNC_CALLS[machine], LOCK_CALLS[machine]
    files = [os.open(f"/proc/{pid}/syscall", os.O_RDONLY) for _, pid in processes]
    chosen = random.Random(1)
    taken: list[tuple[int, str]] = []
    # Without this priority a sample on a busy machine waits until a core is free, and would then see an idle one.
    priority = False
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        priority = True
    began, cpu, idle = time.monotonic(), time.process_time(), idle_seconds()
    while not _closed(chosen.uniform(*INTERVAL_SECONDS)):
        at = time.monotonic_ns()
        taken.append((at, "".join([_read(file, syncs, locks) for file in files])))
    seconds = time.monotonic() - began
    return {
        "groups": [group for group, _ in processes],
        "samples": taken,
        "cores": os.cpu_count(),
        "seconds": seconds,
        "own_cores": (time.process_time() - cpu) / seconds,
        "idle_cores": (idle_seconds() - idle) / seconds,
        "priority": priority,
    }


def _closed(seconds: float) -> bool:
    """Wait this long for the end of standard input; return whether it has come."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def _read(file: int, syncs: set[int], locks: set[int]) -> str:
    try:
        return state(os.pread(file, 160, 0), syncs, locks)
    except ProcessLookupError:
        return SLEEPS  # it has ended


if __name__ == "__main__":
    named = [argument.rpartition("=") for argument in sys.argv[2:]]
    chosen = [(group, int(pid)) for group, _, pid in named]
    chosen += [("wrk", thread) for thread in wrk_threads()]
    Path(sys.argv[1]).write_text(json.dumps(sample(chosen)))
