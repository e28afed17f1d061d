"""The load over HTTP: wrk with a script, and its results."""

import json
import os
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.checkout.catalogue import PRODUCTS, USERS

SCRIPT = Path(__file__).parent / "load.lua"
# One thread serves 256 connections with a tenth of a core; a second thread would only take CPU from the services.
THREADS = 1
TIMEOUT_SECONDS = 10  # the order service's own request deadline


class LoadError(Exception):
    """Clients got wrong answers, so the round does not count."""


@dataclass(frozen=True, slots=True)
class Load:
    """What clients do for some seconds. `scenario`: cold, hot, later or refusals, as in load.lua."""

    scenario: str
    clients: int
    seconds: int
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class Answers:
    """wrk's results; latencies in microseconds, by percentile. `checkouts`: those that ended correctly."""

    requests: int
    seconds: float
    checkouts: int
    refused: int
    coupons: int
    latency: dict[str, float]
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Return the checkouts per second."""
        return self.checkouts / self.seconds


def run_wrk(
    wrk: str, urls: Sequence[str], load: Load, seed: int, first_coupon: int, tokens: Path | None = None
) -> Answers:
    """Let the clients buy, divided evenly among the addresses. Raises LoadError for an unexpected answer.

    `tokens`: a file with a line for each user, which is the user's token.
    """
    share = load.clients // len(urls)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = []
    for number, url in enumerate(urls):
        scenario = [load.scenario, f"{seed}{number}", str(first_coupon), str(PRODUCTS), str(USERS)]
        scenario += [
            str(number),
            str(len(urls)),
            "keyed" if load.keyed else "plain",
            *([str(tokens)] if tokens else []),
        ]
        command = [wrk, f"-t{THREADS}", f"-c{share}", f"-d{load.seconds}s", f"--timeout={TIMEOUT_SECONDS}s"]
        command += ["-s", str(SCRIPT), url, "--", *scenario]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)))
    printed = [process.communicate()[0] for process in running]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if any(process.returncode != 0 for process in running):
        raise LoadError("\n".join(printed))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return together([json.loads(text.strip().splitlines()[-1]) for text in printed], load, cpu)


def together(counted: Sequence[dict[str, Any]], load: Load, cpu_seconds: float) -> Answers:
    """Combine the results of several wrks, with the worst latencies. Raises LoadError."""
    sums = {name: sum(one[name] for one in counted) for name in counted[0]}
    expected_errors = sums["refused"]
    checkouts = sums["requests"] - expected_errors
    if load.scenario == "later":
        checkouts = sums["paid"]  # a checkout takes two requests
    if sums["broken"] or sums["other"] or sums["error_statuses"] != expected_errors:
        raise LoadError(f"{load}: clients were answered what they should not have been: {sums}")
    if sums["refused"] and load.scenario != "refusals":
        raise LoadError(f"{load}: {sums['refused']} checkouts were refused")
    if not checkouts:
        raise LoadError(f"{load}: no checkout was answered")
    latency = {name: max(one[name] for one in counted) for name in counted[0] if name.endswith("_us")}
    return Answers(
        requests=sums["requests"],
        seconds=max(one["seconds"] for one in counted),
        checkouts=checkouts,
        refused=sums["refused"],
        coupons=max(one["coupons"] for one in counted) * len(counted),
        latency={name.removesuffix("_us"): value for name, value in latency.items()},
        cpu_seconds=cpu_seconds,
    )
