"""The idle time of a recorded load is divided by what idle cores wait for, and drawn."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as Tree

import pytest

from tests.bench.checkout.idle import report
from tests.bench.checkout.idle.chart import chart
from tests.bench.checkout.idle.moments import (
    KINDS,
    Batch,
    Cause,
    Intervals,
    Recording,
    Sample,
    Share,
    Slot,
    StepFigures,
    idle_cores,
    kind_of,
    shares,
    step_figures,
)
from tests.bench.checkout.idle.sampler import LOCKED, RUNS, SLEEPS, SYNCS, state
from tests.bench.checkout.load import Load

LOAD = Load("cold", 64, 1)
GROUPS = ("order", "product", "Postgres order", "Postgres product", "Postgres relay", "WAL writer", "wrk")
UNDER_WAY = Batch("product", 0, 10, 3)
TAKEN = Slot("product", 0, 0, 10, 10)
HELD = Slot("coupon", 0, 10, 20, 20)  # waits from 0 until before 10


def at(time_ns: int, **states: str) -> Sample:
    """Return a sample in which all processes sleep, except those named here (with _ for a space)."""
    return Sample(time_ns, "".join(states.get(group.replace(" ", "_"), SLEEPS) for group in GROUPS))


def recording(samples: Sequence[Sample], batches: Sequence[Batch] = (), slots: Sequence[Slot] = ()) -> Recording:
    return Recording(
        groups=GROUPS,
        samples=samples,
        batches=batches,
        slots=slots,
        slot_count=1,
        cores=2,
        rate=1000.0,
        own_cores=0.05,
        idle_cores=0.5,
        priority=True,
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"running\n", RUNS),
        (b"75 0x5 0x0\n", SYNCS),
        (b"202 0x5 0x0\n", LOCKED),
        (b"-1 0x7ff 0x7f\n", LOCKED),
        (b"232 0x5 0x0\n", SLEEPS),
    ],
)
def test_state_of_a_process_follows_from_its_system_call(line: bytes, expected: str) -> None:
    assert state(line, {74, 75}, {202}) == expected


def test_interval_contains_its_begin_and_not_its_end() -> None:
    intervals = Intervals([(1, 3), (2, 5)])
    assert [intervals.at(time) for time in range(6)] == [0, 1, 2, 1, 1, 0]


def test_core_is_idle_unless_a_sampled_process_runs_or_waits_for_it() -> None:
    samples = [at(0), at(1, order=RUNS), at(2, order=RUNS, wrk=RUNS), at(3, order=RUNS, wrk=RUNS, product=RUNS)]
    found = recording(samples)
    assert [found.idle(sample) for sample in samples] == [2, 1, 0, 0]
    assert idle_cores(found) == 0.75


@pytest.mark.parametrize(
    ("sample", "batches", "slots", "expected"),
    [
        (at(5), [UNDER_WAY], [TAKEN, HELD], Cause.FULL),
        (at(5, Postgres_product=SYNCS), [UNDER_WAY], [TAKEN, HELD], Cause.FULL),
        (at(5), [], [Slot("product", 0, 0, 4, 10), HELD], Cause.KEPT),
        (at(5), [], [HELD], Cause.SMALL),
        (at(5, order=RUNS), [UNDER_WAY], [TAKEN, HELD], Cause.HELD),
        (at(5, Postgres_product=SYNCS), [UNDER_WAY], [TAKEN], Cause.COMMIT),
        (at(5, Postgres_product=SYNCS, order=RUNS), [UNDER_WAY], [TAKEN], Cause.COMMIT_BESIDE),
        (at(5, Postgres_product=LOCKED, Postgres_relay=SYNCS), [UNDER_WAY], [TAKEN], Cause.COMMIT),
        (at(5, Postgres_product=LOCKED, WAL_writer=SYNCS), [UNDER_WAY], [TAKEN], Cause.COMMIT),
        (at(5, order=RUNS), [UNDER_WAY], [TAKEN], Cause.LOOP),
        (at(5, Postgres_product=RUNS), [UNDER_WAY], [TAKEN], Cause.OTHERS),
        (at(5), [UNDER_WAY], [TAKEN], Cause.HANDOVER),
        (at(5, wrk=RUNS), [UNDER_WAY], [TAKEN], Cause.HANDOVER),
        (at(5), [], [], Cause.CLIENTS),
        (at(5, wrk=RUNS), [], [], Cause.CLIENTS),
    ],
)
def test_idle_core_waits_for_the_first_cause_that_applies(
    sample: Sample, batches: Sequence[Batch], slots: Sequence[Slot], expected: Cause
) -> None:
    assert recording([sample], batches, slots).cause(sample) is expected


@pytest.mark.parametrize(
    "sample",
    [
        at(5, Postgres_relay=SYNCS),  # no checkout waits for the relay's commit
        at(5, Postgres_product=LOCKED),  # a lock that no commit holds
    ],
)
def test_no_commit_delays_a_checkout_unless_its_backend_waits_for_it(sample: Sample) -> None:
    assert recording([sample], [UNDER_WAY], [TAKEN]).present(sample) == {Cause.HANDOVER}


def test_batch_whose_slot_was_given_is_not_held_back() -> None:
    assert recording([at(10)], [], [HELD]).cause(at(10)) is Cause.CLIENTS


def test_shares_are_weighted_by_idle_cores_and_add_up_to_one() -> None:
    samples = [at(5), at(15), at(15, order=RUNS), at(15, order=RUNS, wrk=RUNS)]
    found = shares(recording(samples, [UNDER_WAY], [TAKEN, HELD]))
    assert found[Cause.FULL] == Share(0.4, 0.4)
    assert found[Cause.CLIENTS] == Share(0.4, 0.4)
    assert found[Cause.LOOP] == Share(0.2, 0.2)
    assert found[Cause.HANDOVER] == Share(0.0, 0.4)
    assert sum(share.first for share in found.values()) == pytest.approx(1.0)


def test_machine_without_idle_time_has_no_shares() -> None:
    found = shares(recording([at(5, order=RUNS, product=RUNS)]))
    assert set(found.values()) == {Share(0.0, 0.0)}


def test_figures_of_a_step_are_of_its_batches_while_samples_ran() -> None:
    millisecond = 1_000_000
    second = 1000 * millisecond
    batches = [
        Batch("coupon", 0, 2 * millisecond, 2),
        Batch("coupon", 5 * millisecond, 9 * millisecond, 4),
        Batch("coupon", 2 * second, 3 * second, 9),  # after the last sample
        Batch("product", 0, second, 9),
    ]
    slots = [Slot("coupon", -millisecond, 0, 0, 0), Slot("coupon", 0, 3 * millisecond, 0, 0)]
    found = recording([at(0), at(2 * second)], batches, slots)
    assert step_figures(found, "coupon") == StepFigures(1.0, 3.0, (3.0, 3.0), (4.0, 4.0))
    assert step_figures(found, "balance") == StepFigures(0.0, 0.0, (0.0, 0.0), (0.0, 0.0))


def test_every_cause_has_one_kind() -> None:
    assert sorted(cause.name for causes in KINDS.values() for cause in causes) == sorted(cause.name for cause in Cause)
    assert all(cause in KINDS[kind_of(cause)] for cause in Cause)


def test_chart_is_svg_that_shows_the_second_in_the_middle() -> None:
    millisecond = 1_000_000
    samples = [at(time * millisecond, order=RUNS) for time in range(0, 3000, 2)]
    batches = [Batch("product", 0, 900 * millisecond, 3), Batch("coupon", 1400 * millisecond, 9000 * millisecond, 3)]
    drawn = Tree.fromstring(chart(recording(samples, batches), "one & only"))
    paths = [path.attrib["d"] for path in drawn.findall("{http://www.w3.org/2000/svg}path")]
    # The idle core, the order process, and the second batch, which reaches to the right edge; the first had ended.
    assert len(paths) == 3
    assert paths[2].startswith("M609.0 ")
    assert "h599.0v" in paths[2]


def test_figures_replace_those_between_the_marks_of_the_page(tmp_path: Path) -> None:
    page, drawn = tmp_path / "page.md", tmp_path / "drawn.svg"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    batches = [Batch("transitions", 0, 10, 3)]
    report.write(recording([at(0), at(1_000_000_000)], batches), LOAD, page, drawn)
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\ncold, 64 clients: 1,000 checkouts/s.")
    assert "| together | 100.0% | |\n" in text
    assert text.endswith(f"| transitions | 1 | 3.0 | 0.0 and 0.0 ms | 0.0 and 0.0 ms |\n\n{report.END}\nafter\n")
    assert "old" not in text.replace("cold", "")
    assert drawn.read_text().startswith("<svg ")
