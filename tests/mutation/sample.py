"""`python -m tests.mutation.sample`: takes conditions and handlers out of the product at random, for a limited time,
and prints those whose removal no test notices. Exit status 1 if there is one that nobody has judged."""

import argparse
import json
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.infrastructure.broker import choose_broker
from tests.infrastructure.postgres import choose_postgres
from tests.infrastructure.reaper import Reaper
from tests.mutation.copies import copied, replaced
from tests.mutation.forks import Forks
from tests.mutation.guard import REPOSITORY
from tests.mutation.judged import JUDGED
from tests.mutation.nearest import LEFT_OUT, NEAREST, nearest

GENERATOR = (".venv-mutation/bin/python", "tests/mutation/generator/generate.py")
WORKERS = 2  # tests wait for databases and brokers: two keep two cores busy


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file; `text` is the whole file with it."""

    path: str
    function: str | None
    line: int
    operator: str
    before: str
    after: str
    text: str = field(repr=False)

    @property
    def judged(self) -> bool:
        """Return whether somebody has found that it makes no difference."""
        own = (self.path, self.function, self.before)
        return any(own == (j.path, j.function, j.before) and j.after in ("", self.after) for j in JUDGED)

    def told(self) -> str:
        """Return it as a person reads it."""
        return f"{self.path}:{self.line} {self.function}\n    - {self.before}\n    + {self.after}"


@dataclass(slots=True)
class Results:
    """What became of the mutants that were tried."""

    ends: Counter[str] = field(default_factory=Counter)
    survivors: list[Mutant] = field(default_factory=list)
    killers: dict[str, list[Mutant]] = field(default_factory=dict)


def files() -> list[str]:
    """Return the files that mutants are made of."""
    paths = {path for place in NEAREST for path in [*REPOSITORY.glob(f"{place}/**/*.py"), REPOSITORY / place]}
    wanted = [path for path in paths if path.suffix == ".py" and path.name not in LEFT_OUT]
    return sorted(str(path.relative_to(REPOSITORY)) for path in wanted)


def generate(only: str) -> list[Mutant]:
    """Return all mutants of the files whose path contains `only`, in one order."""
    paths = [path for path in files() if only in path]
    made = subprocess.run([*GENERATOR, *paths], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return [Mutant(**json.loads(line)) for line in made.stdout.splitlines()]


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """Start a Postgres and a broker for all; return where they are, as tests are told."""
    reaper = Reaper()
    try:
        yield {
            "TEST_DATABASE_URL": choose_postgres(os.environ).start(reaper),
            "TEST_KAFKA_BOOTSTRAP_SERVERS": choose_broker(os.environ).start(reaper),
        }
    finally:
        reaper.close()


def work(mutants: Iterator[Mutant], deadline: float, environment: dict[str, str], results: Results) -> None:
    """Try mutants until there are none or the time is over."""
    with copied() as copy, Forks() as forks:
        while time.monotonic() < deadline and (mutant := next(mutants, None)) is not None:
            with replaced(copy / mutant.path, mutant.text):
                ends = forks.run(copy, nearest(mutant.path), environment, stop_at_first=True)
            failed = [test for test, end in ends.items() if end not in ("passed", "skipped")]
            if failed:
                results.ends["killed"] += 1
                results.killers.setdefault(failed[0], []).append(mutant)
            elif ends:
                results.ends["survived"] += 1
                results.survivors.append(mutant)
                print(f"survived: {mutant.told()}", flush=True)
            else:
                results.ends["hung"] += 1


def unsure(results: Results, environment: dict[str, str]) -> list[Mutant]:
    """Return the mutants that were killed by tests which fail without them as well."""
    with copied() as copy, Forks() as forks:
        ends = {test: forks.run(copy, [test], environment).get(test) for test in results.killers}
    return [mutant for test, end in ends.items() if end != "passed" for mutant in results.killers[test]]


def sample(mutants: Sequence[Mutant], seconds: float, workers: int) -> Results:
    """Try mutants one after the other for so long."""
    results, lock, left = Results(), threading.Lock(), iter(mutants)
    deadline = time.monotonic() + seconds

    def shared() -> Iterator[Mutant]:
        while True:
            with lock:
                mutant = next(left, None)
            if mutant is None:
                return
            yield mutant

    with servers() as environment:
        threads = [
            threading.Thread(target=work, args=(shared(), deadline, environment, results)) for _ in range(workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for mutant in unsure(results, environment):
            results.ends["killed"] -= 1
            results.ends["unsure"] += 1
            print(f"unsure, its test fails without it too: {mutant.told()}")
    return results


def main() -> None:
    """Take a sample and tell what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.sample", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200, help="how long mutants are tried (default: 1200)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--workers", type=int, default=WORKERS, help=f"how many at a time (default: {WORKERS})")
    parser.add_argument("--only", default="", help="only files whose path contains this")
    arguments = parser.parse_args()
    every = generate(arguments.only)
    mutants = [mutant for mutant in every if not mutant.judged]
    random.Random(arguments.seed).shuffle(mutants)
    print(f"SEED={arguments.seed}: {len(every)} mutants, {len(every) - len(mutants)} of them judged", flush=True)
    results = sample(mutants, arguments.seconds, arguments.workers)
    counts = {name: results.ends[name] for name in ("killed", "hung", "unsure", "survived")}
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    if results.survivors or results.ends["unsure"]:
        raise SystemExit("Kill each survivor by a test, or judge it in tests/mutation/judged.py.")


if __name__ == "__main__":
    main()
