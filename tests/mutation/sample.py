"""`python -m tests.mutation.sample`: takes conditions and handlers out of the product at random, for a limited time,
and prints those whose removal no test notices. Exit status 1 if there is one that is not accepted.

A mutant that cannot be loaded, or on which a test hangs, is as good as killed."""

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
from itertools import groupby

from deploy.local.progress import Progress
from tests.infrastructure.broker import choose_broker
from tests.infrastructure.postgres import choose_postgres
from tests.infrastructure.reaper import Reaper
from tests.mutation.accepted import ACCEPTED
from tests.mutation.guard import REPOSITORY
from tests.mutation.nearest import LEFT_OUT, NEAREST, tests_for
from tests.mutation.sandbox import Sandbox

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
    def accepted(self) -> bool:
        """Return whether somebody has found that it makes no difference."""
        own = (self.path, self.function, self.before)
        return any(own == (j.path, j.function, j.before) and j.after in ("", self.after) for j in ACCEPTED)

    def __str__(self) -> str:
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
    wanted = [path for path in paths if path.suffix == ".py" and not any(map(path.match, LEFT_OUT))]
    return sorted(str(path.relative_to(REPOSITORY)) for path in wanted)


def generate(only: str) -> list[Mutant]:
    """Return all mutants of the files whose path contains `only`, in one order."""
    paths = [path for path in files() if only in path]
    made = subprocess.run([*GENERATOR, *paths], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return [Mutant(**json.loads(line)) for line in made.stdout.splitlines()]


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """Start a Postgres and a broker for all; return the environment in which tests find them."""
    reaper = Reaper()
    broker = choose_broker(os.environ)
    try:
        environment = {"TEST_DATABASE_URL": choose_postgres(os.environ).start(reaper), "TEST_POSTGRES": "given"}
        # Tests take a broker at an address for a real one, so an embedded one is started by each run itself.
        yield environment | (
            {"TEST_KAFKA_BOOTSTRAP_SERVERS": broker.start(reaper), "TEST_BROKER": "given"}
            if broker.real
            else {"TEST_BROKER": broker.name}
        )
    finally:
        reaper.close()


def work(mutants: Iterator[Mutant], deadline: float, environment: dict[str, str], results: Results) -> None:
    """Try mutants until there are none or the time is over."""
    with Sandbox() as sandbox:
        while time.monotonic() < deadline and (mutant := next(mutants, None)) is not None:
            change = mutant.path, mutant.text
            ends = sandbox.run(tests_for(mutant.path), environment, change=change, stop_at_first=True)
            if ends is None:
                results.ends["hung"] += 1
            elif not ends or "not loaded" in ends.values():
                results.ends["not loadable"] += 1
            elif failed := [test for test, end in ends.items() if end in ("failed", "error")]:
                results.ends["killed"] += 1
                results.killers.setdefault(failed[0], []).append(mutant)
            else:
                results.ends["survived"] += 1
                results.survivors.append(mutant)
                print(f"survived: {mutant}", flush=True)


def unsure(results: Results, environment: dict[str, str]) -> list[tuple[str, Mutant]]:
    """Return the mutants that were killed by tests which fail without them as well, each with its test."""
    files = groupby(sorted(results.killers), key=lambda test: test.split("::")[0])
    with Sandbox() as sandbox:
        ends = [sandbox.run(list(tests), environment) or {} for _, tests in files]
    passed = {test for of_file in ends for test, end in of_file.items() if end == "passed"}
    return [(test, mutant) for test, killed in results.killers.items() if test not in passed for mutant in killed]


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
        for test, mutant in unsure(results, environment):
            results.ends["killed"] -= 1
            results.ends["unsure"] += 1
            print(f"unsure: {mutant}\n    {test} fails on the original too")
    return results


def main() -> None:
    """Run the tests against a sample of mutants, and print the survivors."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.sample", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200, help="how long mutants are tried (default: 1200)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--workers", type=int, default=WORKERS, help=f"how many at a time (default: {WORKERS})")
    parser.add_argument("--only", default="", help="only files whose path contains this")
    arguments = parser.parse_args()
    every = generate(arguments.only)
    mutants = [mutant for mutant in every if not mutant.accepted]
    random.Random(arguments.seed).shuffle(mutants)
    print(
        f"SEED={arguments.seed}: {len(every)} mutants, {len(every) - len(mutants)} of them accepted before", flush=True
    )
    with Progress(f"trying mutants for {arguments.seconds:.0f} s"):
        results = sample(mutants, arguments.seconds, arguments.workers)
    counts = {name: results.ends[name] for name in ("killed", "not loadable", "hung", "unsure", "survived")}
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    if results.survivors or results.ends["unsure"]:
        raise SystemExit("Kill each survivor by a test, or accept it in tests/mutation/accepted.py.")


if __name__ == "__main__":
    main()
