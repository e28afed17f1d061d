"""The pure part of the picture of the idle time: what an idle core waits for at each sampled moment.

Samples are taken at random moments, so a condition holds in the same share of the samples as of the time.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from tests.bench.checkout.idle.sampler import LOCKED, RUNS, SYNCS

STEPS = ("starts", "product", "coupon", "balance", "transitions")
# The services on which a checkout waits, and Postgres' processes for their connections.
SERVICES = ("order", "product", "coupon", "balance")
BACKENDS = tuple(f"Postgres {service}" for service in SERVICES)


class Cause(Enum):
    """What an idle core waits for: the first of these that applies at a moment, so always exactly one.

    "Runs" includes waiting for a core. "A process of a checkout" is the order service, a participant, or a Postgres
    process that serves one of them. "Items wait for a slot": a batcher of the order service has items and no batch
    under way, and the scheduler (shared/pacing.py) has not let it go yet. While the order process sleeps, they could
    leave at once; while it runs, its loop would have to send them, so it is not known which of both the core waits for.
    """

    FULL = "pacing: items wait for a slot, and batches under way have all slots"
    KEPT = "pacing: items wait for a slot, and a batch that has ended keeps one"
    SMALL = "pacing: a slot is free, and too few items wait for a further batch"
    HELD = "pacing or the loop: items wait for a slot while the order process runs"
    COMMIT = "a commit is on its way to disk, and no process of a checkout runs"
    COMMIT_BESIDE = "a commit is on its way to disk, and a process of a checkout runs"
    LOOP = "of a checkout, only the order process runs: its loop uses one core"
    OTHERS = "a participant or Postgres runs"
    HANDOVER = "a batch is under way, and no process of a checkout runs"
    CLIENTS = "no batch is under way: requests and answers are at wrk or between"


# The same without their details: for the chart.
KINDS: Mapping[str, Collection[Cause]] = {
    "pacing": (Cause.FULL, Cause.KEPT, Cause.SMALL),
    "held": (Cause.HELD,),
    "commit": (Cause.COMMIT, Cause.COMMIT_BESIDE),
    "loop": (Cause.LOOP,),
    "others": (Cause.OTHERS,),
    "handover": (Cause.HANDOVER,),
    "clients": (Cause.CLIENTS,),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment. `states`: a letter for each process."""

    at_ns: int
    states: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of the order service, from its beginning until its results are delivered."""

    step: str
    began_ns: int
    ended_ns: int
    size: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A batch's slot: a batcher with items asked for it, got it, ended its batch, and gave it back."""

    step: str
    asked_ns: int
    given_ns: int
    ended_ns: int
    free_ns: int


class Intervals:
    """Counts the intervals, each from its begin to before its end, in which a time lies."""

    def __init__(self, intervals: Iterable[tuple[int, int]]) -> None:
        pairs = list(intervals)
        self._begins = sorted(begin for begin, _ in pairs)
        self._ends = sorted(end for _, end in pairs)

    def at(self, time_ns: int) -> int:
        """Return how many intervals contain this time."""
        return bisect_right(self._begins, time_ns) - bisect_right(self._ends, time_ns)


@dataclass(frozen=True)
class Recording:
    """A recorded load. `groups`: for each letter of the samples' states, the group of that process.

    `own_cores`: what the sampler itself used. `idle_cores`: idle cores by the kernel's own count, as a mean.
    `slot_count`: 0 if the order service runs without a scheduler. `priority`: whether the sampler had its priority.
    """

    groups: Sequence[str]
    samples: Sequence[Sample]
    batches: Sequence[Batch]
    slots: Sequence[Slot]
    slot_count: int
    cores: int
    rate: float
    own_cores: float
    idle_cores: float
    priority: bool

    def states(self, sample: Sample, groups: Collection[str]) -> set[str]:
        """Return the states of all processes of these groups."""
        return {state for group, state in zip(self.groups, sample.states, strict=True) if group in groups}

    def idle(self, sample: Sample) -> int:
        """Return the number of cores that no sampled process uses."""
        return max(0, self.cores - sample.states.count(RUNS))

    def cause(self, sample: Sample) -> Cause:
        """Return what an idle core waits for. The sample must have one."""
        return next(cause for cause in Cause if cause in self.present(sample))

    def present(self, sample: Sample) -> set[Cause]:
        """Return every condition that holds, whether or not an earlier one holds too."""
        found: set[Cause] = set()
        order_runs = RUNS in self.states(sample, SERVICES[:1])
        if self._waiting.at(sample.at_ns):
            if order_runs:
                found.add(Cause.HELD)
            elif self._taken.at(sample.at_ns) < self.slot_count:
                found.add(Cause.SMALL)
            else:
                found.add(Cause.KEPT if self._kept.at(sample.at_ns) else Cause.FULL)
        backends, postgres = self.states(sample, BACKENDS), self.states(sample, self._postgres)
        running = self.states(sample, {*SERVICES, *BACKENDS}) >= {RUNS}
        # A backend whose WAL another process writes waits for that process' lock.
        if SYNCS in backends or (SYNCS in postgres and LOCKED in backends):
            found.add(Cause.COMMIT_BESIDE if running else Cause.COMMIT)
        if running:
            alone = RUNS not in self.states(sample, {*SERVICES[1:], *BACKENDS})
            found.add(Cause.LOOP if alone else Cause.OTHERS)
        else:
            found.add(Cause.HANDOVER if self._under_way.at(sample.at_ns) else Cause.CLIENTS)
        return found

    @cached_property
    def _postgres(self) -> set[str]:
        return {group for group in self.groups if group not in SERVICES and group not in {"relay", "wrk", "Kafka"}}

    @cached_property
    def _under_way(self) -> Intervals:
        return Intervals((batch.began_ns, batch.ended_ns) for batch in self.batches)

    @cached_property
    def _waiting(self) -> Intervals:
        return Intervals((slot.asked_ns, slot.given_ns) for slot in self.slots)

    @cached_property
    def _taken(self) -> Intervals:
        return Intervals((slot.given_ns, slot.free_ns) for slot in self.slots)

    @cached_property
    def _kept(self) -> Intervals:
        return Intervals((slot.ended_ns, slot.free_ns) for slot in self.slots)


@dataclass(frozen=True, slots=True)
class Share:
    """Shares of the idle time. `first`: this cause is the first that applies. `present`: it holds, first or not."""

    first: float
    present: float


def idle_cores(recording: Recording) -> float:
    """Return the number of idle cores, as a mean over the samples."""
    return sum(map(recording.idle, recording.samples)) / len(recording.samples)


def shares(recording: Recording) -> Mapping[Cause, Share]:
    """Divide the idle time of all cores by its causes; the shares by first cause add up to 1, or all are 0."""
    first, present = dict.fromkeys(Cause, 0), dict.fromkeys(Cause, 0)
    total = 0
    for sample in recording.samples:
        if idle := recording.idle(sample):
            total += idle
            first[recording.cause(sample)] += idle
            for cause in recording.present(sample):
                present[cause] += idle
    return {cause: Share(first[cause] / max(total, 1), present[cause] / max(total, 1)) for cause in Cause}


@dataclass(frozen=True, slots=True)
class StepFigures:
    """The batches of a step. Times in ms, as median and 99th percentile; all 0 if there was none."""

    batches_per_second: float
    size: float
    waited_ms: tuple[float, float]
    under_way_ms: tuple[float, float]


def step_figures(recording: Recording, step: str) -> StepFigures:
    """Return the figures of a step's batches that began, and of its waits for a slot that ended, while samples ran."""
    first, last = recording.samples[0].at_ns, recording.samples[-1].at_ns
    batches = [batch for batch in recording.batches if batch.step == step and first <= batch.began_ns < last]
    slots = [slot for slot in recording.slots if slot.step == step and first <= slot.given_ns < last]
    return StepFigures(
        batches_per_second=len(batches) / ((last - first) / 1e9),
        size=sum(batch.size for batch in batches) / max(len(batches), 1),
        waited_ms=_percentiles([slot.given_ns - slot.asked_ns for slot in slots]),
        under_way_ms=_percentiles([batch.ended_ns - batch.began_ns for batch in batches]),
    )


def _percentiles(times_ns: Sequence[int]) -> tuple[float, float]:
    ordered = sorted(times_ns) or [0]
    return ordered[len(ordered) // 2] / 1e6, ordered[len(ordered) * 99 // 100] / 1e6


def kind_of(cause: Cause) -> str:
    """Return the kind to which a cause belongs."""
    return next(kind for kind, causes in KINDS.items() if cause in causes)
