"""Measures how many histories the simulator plays until it detects each mutant: `python -m tests.simulation.detection`.

Prints a table with a row per mutant: the mean and the maximum over several runs. Each run starts at another seed.
"""

import argparse
import gc
import sys
from statistics import mean

from tests.simulation.history import play
from tests.simulation.mutants import BUGS, RULES, Mutant

# The seeds of two runs must not overlap; the fixed set's test plays the seeds from 0 on.
SEEDS_APART = 100_000


def main() -> None:
    """Print the table, and exit with 1 if a run did not detect its mutant."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.detection", description=__doc__)
    parser.add_argument("--runs", type=int, default=6, help="runs per mutant (default: 6)")
    parser.add_argument("--histories", type=int, default=2000, help="the most histories of a run (default: 2000)")
    parser.add_argument("--only", default="", help="mutants whose name contains this text (default: all)")
    arguments = parser.parse_args()
    gc.disable()  # histories leave cycles behind; collecting them between runs is cheaper
    print("| mutant | mean | max |\n|---|--:|--:|")
    missed = 0
    for mutant in (mutant for mutant in (*RULES, *BUGS) if arguments.only in mutant.name):
        runs = [
            histories_until_detected(mutant, run * SEEDS_APART, arguments.histories) for run in range(arguments.runs)
        ]
        missed += runs.count(None)
        counts = [arguments.histories if run is None else run for run in runs]
        longest = "not detected" if None in runs else max(counts)
        print(f"| {mutant.name} | {mean(counts):.0f} | {longest} |", flush=True)
        gc.collect()
    sys.exit(missed > 0)


def histories_until_detected(mutant: Mutant, first_seed: int, histories_max: int) -> int | None:
    """Return how many histories from a seed on are played until one violates an invariant; None if none does."""
    with mutant.applied():
        for count in range(1, histories_max + 1):
            if play(first_seed + count - 1).violation is not None:
                return count
    return None


if __name__ == "__main__":
    main()
