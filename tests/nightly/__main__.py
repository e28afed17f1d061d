"""`python -m tests.nightly`: runs every long target, goes on after one that fails, and prints a table of them all.

With `--rehearsal` it runs those of `make rehearsal` instead.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from deploy.local.progress import Progress
from tests.nightly.targets import REHEARSAL, TARGETS, Ended, Target, table

REPOSITORY = Path(__file__).parents[2]
OUTPUT = REPOSITORY / ".local"
LIMIT_SECONDS = 3 * 3600.0  # several times what the longest takes; then it hangs
# Set by the make that runs this, and taken by those below for their own.
INHERITED = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "SECONDS", "SEED", "ARGS", "ONLY")


def run(target: Target, seed: int, folder: Path, limit_seconds: float = LIMIT_SECONDS) -> Ended:
    """Run a target to its end, show what it prints, keep it in a folder, and return what came of it."""
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
    with (folder / f"{target.name}.log").open("w") as log, Progress(target.name, first_seconds=10):
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
    parser.add_argument("--rehearsal", action="store_true", help="run what operators do: containers, drills, runbook")
    parser.add_argument("targets", nargs="*", help="only these, in the usual order (default: all)")
    arguments = parser.parse_args()
    all_targets, name = (REHEARSAL, "rehearsal") if arguments.rehearsal else (TARGETS, "nightly")
    unknown = set(arguments.targets) - {target.name for target in all_targets}
    if unknown:
        known = ", ".join(target.name for target in all_targets)
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {known}")
    folder = OUTPUT / name
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [target for target in all_targets if not arguments.targets or target.name in arguments.targets]
    ended = [run(target, arguments.seed, folder) for target in chosen]
    seed = f"SEED={arguments.seed}\n\n" if any(target.seeded for target in chosen) else ""
    rendered = f"{seed}{table(ended)}\n"
    (folder / "table.md").write_text(rendered)
    print(f"\n{rendered}")
    return int(not all(one.passed for one in ended))


if __name__ == "__main__":
    sys.exit(main())
