"""Plays histories until they have taken enough steps: `python -m tests.simulation [--seed N] [--steps N]`.

With --seed alone, plays that history and prints the last lines of its trace.
"""

import argparse
import gc
import secrets
import sys
import time
from collections import Counter

from deploy.local.progress import Progress
from tests.simulation.history import HistoryResult, play

TRACE_LINES = 400
STEPS = 1_000_000


def main() -> None:
    """Play histories, print the result, and exit with 1 after the first violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--steps", type=int, help="the least number of steps (default: a million)")
    parser.add_argument("--seed", type=int, help="the first history; without --steps, the only one, with its trace")
    arguments = parser.parse_args()
    if arguments.seed is not None and arguments.steps is None:
        result = play(arguments.seed, recording=True)
        print("\n".join(result.trace[-TRACE_LINES:]))
        print(f"history {result.seed}: {result.steps} steps, trace {result.hash:08x}, {result.violation or 'clean'}")
        sys.exit(result.violation is not None)
    first = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    sys.exit(play_many(first, arguments.steps or STEPS))


def play_many(first: int, steps_wanted: int) -> int:
    """Play histories from a first seed on, up to the first violation; return the number of violations, 0 or 1."""
    gc.disable()  # histories leave cycles behind; collecting them between histories is cheaper
    began, steps, histories, hits = time.monotonic(), 0, 0, Counter[str]()
    violated = None
    with Progress("the first history") as progress:
        while steps < steps_wanted and violated is None:
            result = play(first + histories)
            histories += 1
            steps += result.steps
            hits.update(result.hits)
            violated = result if result.violation is not None else None
            progress.update(f"{steps:,} of {steps_wanted:,} steps, {histories:,} histories")
            if histories % 100 == 0:
                gc.collect()
    if violated is not None:
        print_violation(violated)
        return 1
    seconds = time.monotonic() - began
    print(f"{histories} histories from seed {first}, {steps} steps, {steps / seconds:.0f} steps/s: no violation")
    print("faults:", ", ".join(f"{kind} {count}" for kind, count in sorted(hits.items())))
    return 0


def print_violation(result: HistoryResult) -> None:
    """Print the violation of a history, and the command that repeats it."""
    print(f"history {result.seed}: {result.violation}\nreplay it: make simulate SEED={result.seed}", file=sys.stderr)


if __name__ == "__main__":
    main()
