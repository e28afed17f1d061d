"""`python -m tests.nightly`: runs every long target, goes on after one that fails, and prints a table of them all."""

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.nightly.targets import TARGETS, Ended, Target, table

REPOSITORY = Path(__file__).parents[2]
OUTPUT = REPOSITORY / ".local" / "nightly"
LIMIT_SECONDS = 3 * 3600.0  # several times what the longest takes; then it hangs
# Set by the make that runs this, and taken by those below for their own.
INHERITED = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "SECONDS", "SEED", "ARGS", "ONLY")


def run(target: Target, seed: int, limit_seconds: float = LIMIT_SECONDS) -> Ended:
    """Run a target to its end, show and keep what it prints, and return what came of it."""
    command = ["make", "--no-print-directory", target.name, *target.variables, *[f"SEED={seed}"] * target.seeded]
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    print(f"\n=== {' '.join(command)}", flush=True)
    began, lines, late = time.monotonic(), [], threading.Event()
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # so that what it has started ends with it
    )

    def end() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit_seconds, end)
    timer.start()
    assert process.stdout is not None
    with (OUTPUT / f"{target.name}.log").open("w") as log:
        for line in process.stdout:
            print(line, end="", flush=True)
            log.write(line)
            lines.append(line)
    status = process.wait()
    timer.cancel()
    return Ended(target, time.monotonic() - began, None if late.is_set() else status, "".join(lines))


def main() -> int:
    """Run all, or those that are named; return 1 if one of them did not pass."""
    parser = argparse.ArgumentParser(prog="python -m tests.nightly", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("targets", nargs="*", help="only these, in the night's order (default: all)")
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - {target.name for target in TARGETS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in TARGETS)}")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    chosen = [target for target in TARGETS if not arguments.targets or target.name in arguments.targets]
    ended = [run(target, arguments.seed) for target in chosen]
    rendered = f"SEED={arguments.seed}\n\n{table(ended)}\n"
    (OUTPUT / "table.md").write_text(rendered)
    print(f"\n{rendered}")
    return int(not all(one.passed for one in ended))


if __name__ == "__main__":
    sys.exit(main())
