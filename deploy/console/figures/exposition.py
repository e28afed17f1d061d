"""Reads the metrics of a replica, in Prometheus' text format: only those that the console shows. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Key(NamedTuple):
    """A sample's name and its labels, sorted by name."""

    name: str
    labels: tuple[tuple[str, str], ...]

    def has(self, wanted: Mapping[str, str]) -> bool:
        """Return whether it has all these labels."""
        return wanted.items() <= dict(self.labels).items()


Samples = Mapping[Key, float]
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


class Reader:
    """Reads the samples with certain names. One regular expression finds them: a full parser takes ten times as long.

    A label's value may contain any character, also braces, as routes have them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        either = "|".join(map(re.escape, sorted(names)))
        self._line = re.compile(rf"^({either})(?:\{{(.*)\}})? ([^ \n]+)(?: -?\d+)?$", re.M)

    def read(self, text: str) -> Samples:
        """Return the samples of a text. What can't be read as a number is left out."""
        found: dict[Key, float] = {}
        for name, labels, value in self._line.findall(text):
            try:
                number = float(value)
            except ValueError:
                continue
            pairs = sorted((label, _plain(content)) for label, content in _LABEL.findall(labels))
            found[Key(name, tuple(pairs))] = number
        return found


def _plain(content: str) -> str:
    if "\\" not in content:
        return content
    return _ESCAPED.sub(lambda escaped: "\n" if escaped[1] == "n" else escaped[1], content)
