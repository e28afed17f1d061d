"""A guard of the product: a condition, a handler or an order of steps whose comment says why it is there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard and the mutant without it.

    The mutant is `path` with `new` for the first `old` that follows `after`. Each of `tests` must fail on it; they are
    named as for pytest. `real_broker`: one of the tests needs what only a real Kafka does.
    """

    name: str
    path: str
    after: str
    old: str
    new: str
    tests: tuple[str, ...]
    real_broker: bool = False

    def mutant(self, text: str) -> str:
        """Return the text of the file without the guard. Raises ValueError if the guard is not there."""
        start = text.index(self.after)
        if text.find(self.after, start + 1) >= 0:
            raise ValueError(f"{self.path}: more than one place begins with {self.after!r}")
        place = text.index(self.old, start)
        return text[:place] + self.new + text[place + len(self.old) :]


def guards_in(path: str, folder: str = "") -> Callable[..., Guard]:
    """Return a short way to write the guards of one file, whose tests are in `folder`."""

    def guard(name: str, after: str, old: str, new: str, *tests: str, real_broker: bool = False) -> Guard:
        return Guard(name, path, after, old, new, tuple(f"{folder}{test}" for test in tests), real_broker)

    return guard
