"""Searches all states, nearest first, so that a failure is found with the fewest moves.

With other bounds than the test's: `python -m tests.unit.relay.sharing.search EVENTS FAULTS`.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.unit.relay.sharing.protocol import Rules, moves
from tests.unit.relay.sharing.symmetry import canonical
from tests.unit.relay.sharing.world import State, beginning


@dataclass
class Found:
    """The result of a search: the number of states, and the first error with the steps that lead to it."""

    states: int
    wrong: str = ""
    trace: list[str] = field(default_factory=list)


@dataclass
class _Reached:
    """All states in the order in which they were found, each with its first predecessor."""

    rules: Rules
    states: list[State]
    parents: list[int]

    def trace(self, place: int) -> list[str]:
        """Return the steps to a state, with the same names of shards and replicas throughout."""
        way = [place]
        while self.parents[way[-1]] >= 0:
            way.append(self.parents[way[-1]])
        happened, state = [], self.states[0]
        for step in reversed(way[:-1]):
            what, state = next(
                (what, world.state())
                for what, world in moves(state, self.rules)
                if canonical(world.state(), self.rules.replicas) == self.states[step]
            )
            happened.append(what)
        return happened


def search(rules: Rules, *, events: int, faults: int) -> Found:
    """Check every reachable state; stop at the first wrong one.

    `events`: per shard. `faults` limits how often a lease is taken from its holder, an outcome stays unknown, or a
    replica crashes. A state is also wrong if not everything can be published from it without another fault.
    """
    reached = _Reached(rules, [canonical(beginning(rules.idle, events, faults), rules.replicas)], [-1])
    places = {reached.states[0]: 0}
    before: list[list[int]] = [[]]
    aliases: dict[State, State] = {}  # cached: computing a state's canonical form takes longest
    for place, state in enumerate(reached.states):  # this list grows during the loop
        for _, world in moves(state, rules):
            alias = world.state()
            following = aliases.get(alias)
            if following is None:
                following = aliases[alias] = canonical(alias, rules.replicas)
            found = places.setdefault(following, len(places))
            if found == len(reached.states):
                reached.states.append(following)
                reached.parents.append(place)
                before.append([])
            if following.broken:
                return Found(len(places), following.broken, reached.trace(found))
            if following.faults_left == state.faults_left:
                before[found].append(place)
    stuck = _stuck(reached.states, before)
    if stuck is None:
        return Found(len(places))
    return Found(len(places), "not everything can be published any more", reached.trace(stuck))


def _stuck(states: Sequence[State], before: Sequence[Sequence[int]]) -> int | None:
    """Return the first state from which no state with every event SENT can be reached."""
    ends = [place for place, state in enumerate(states) if not any(row.waiting or row.claimed for row in state.rows)]
    well = set(ends)
    while ends:
        earlier = [place for place in before[ends.pop()] if place not in well]
        well.update(earlier)
        ends.extend(earlier)
    return next((place for place in range(len(states)) if place not in well), None)


if __name__ == "__main__":
    began = time.perf_counter()
    result = search(Rules(), events=int(sys.argv[1]), faults=int(sys.argv[2]))
    print(result.states, "states,", round(time.perf_counter() - began), "seconds:", result.wrong or "nothing wrong")
    print(*result.trace, sep="\n")
