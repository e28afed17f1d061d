"""Plays histories until enough steps were taken: `python -m tests.simulation [--seed N] [--steps N]`.

With --seed alone, plays that history and tells what happened in it, line by line up to the end.
"""

import argparse
import gc
import secrets
import sys
import time
from collections import Counter

from tests.simulation.history import Told, play

TRACE_LINES = 400
STEPS = 1_000_000


def main() -> None:
    """Play, tell, and exit with 1 after the first violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--steps", type=int, help="play until this many steps were taken (default: a million)")
    parser.add_argument("--seed", type=int, help="the first history; without --steps the only one, with its trace")
    arguments = parser.parse_args()
    if arguments.seed is not None and arguments.steps is None:
        told = play(arguments.seed, recording=True)
        print("\n".join(told.trace[-TRACE_LINES:]))
        print(f"history {told.seed}: {told.steps} steps, trace {told.hash:08x}, {told.violation or 'clean'}")
        sys.exit(told.violation is not None)
    first = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    sys.exit(play_many(first, arguments.steps or STEPS))


def play_many(first: int, steps_wanted: int) -> int:
    """Play histories from a first seed on; return how many violated something, at most one."""
    gc.disable()  # histories leave cycles behind; collecting them between histories is cheaper
    began, steps, histories, hits = time.monotonic(), 0, 0, Counter[str]()
    while steps < steps_wanted:
        told = play(first + histories)
        histories += 1
        steps += told.steps
        hits.update(told.hits)
        if told.violation is not None:
            complain(told)
            return 1
        if histories % 100 == 0:
            gc.collect()
    seconds = time.monotonic() - began
    print(f"{histories} histories from seed {first}, {steps} steps, {steps / seconds:.0f} steps/s: no violation")
    print("trouble:", ", ".join(f"{kind} {count}" for kind, count in sorted(hits.items())))
    return 0


def complain(told: Told) -> None:
    """Say what went wrong and how to see it again."""
    print(f"history {told.seed}: {told.violation}\nreplay it: make simulate SEED={told.seed}", file=sys.stderr)


if __name__ == "__main__":
    main()
