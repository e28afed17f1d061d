"""One second of a recorded load as an SVG document: a lane for each group of processes and for each step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from tests.bench.checkout.idle.moments import KINDS, SERVICES, STEPS, Recording, Sample, kind_of, shares
from tests.bench.checkout.idle.sampler import LOCKED, RUNS, SYNCS

SHOWN_NS = 1_000_000_000
LABELS_WIDTH, PLOT_WIDTH, MARGIN = 190, 1000, 18
LANE_HEIGHT, LANE_GAP, IDLE_HEIGHT, TOP = 14, 5, 40, 64
# Readable on white and on black; the rest follows the reader's choice of light or dark.
COLOURS = {
    "pacing": "#d9822b",
    "held": "#c9b458",
    "commit": "#d64545",
    "loop": "#3f8f6b",
    "others": "#4a86c5",
    "handover": "#8a9ba8",
    "clients": "#9a6fb0",
    "runs": "#3f8f6b",
    "locked": "#8a9ba8",
    "waits": "#d9822b",
    "batch": "#4a86c5",
}
LEGEND = {
    "pacing": "pacing",
    "held": "pacing or loop",
    "commit": "a commit",
    "loop": "the loop",
    "others": "a participant or Postgres",
    "handover": "a wake-up",
    "clients": "clients",
}
STYLE = """
text{fill:#222}.sheet{fill:#fff}.line{stroke:#ccc}.minor{fill:#666}
@media(prefers-color-scheme:dark){text{fill:#ddd}.sheet{fill:#111}.line{stroke:#444}.minor{fill:#999}}
"""


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane: rectangles by their colour, each from a time to a time, with its share of the lane's height."""

    label: str
    height: int
    marks: Mapping[str, Sequence[tuple[int, int, float]]]


def chart(recording: Recording, title: str) -> str:
    """Return the second in the middle of a recording as an SVG document."""
    middle = (recording.samples[0].at_ns + recording.samples[-1].at_ns) // 2
    begin = middle - SHOWN_NS // 2
    lanes = list(_lanes(recording, begin))
    height = TOP + sum(lane.height + LANE_GAP for lane in lanes) + 40
    width = LABELS_WIDTH + PLOT_WIDTH + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect class="sheet" width="{width}" height="{height}"/>',
        f'<text x="{MARGIN}" y="22" font-weight="bold">{escape(title)}</text>',
        *_legend(recording),
    ]
    top = TOP
    for lane in lanes:
        parts += _drawn(lane, top, begin)
        top += lane.height + LANE_GAP
    return "\n".join([*parts, *_axis(top), "</svg>\n"])


def _lanes(recording: Recording, begin: int) -> Iterator[Lane]:
    spans = list(_spans(recording.samples, begin))
    idle: dict[str, list[tuple[int, int, float]]] = {kind: [] for kind in KINDS}
    for sample, start, end in spans:
        if cores := recording.idle(sample):
            idle[kind_of(recording.cause(sample))].append((start, end, cores / recording.cores))
    yield Lane(f"idle cores, 0 to {recording.cores}", IDLE_HEIGHT, idle)

    def states(label: str, group: str) -> Lane:
        names = {RUNS: "runs"}
        if group.startswith("Postgres"):  # other processes wait in a lock while they have nothing to do
            names |= {SYNCS: "commit", LOCKED: "locked"}
        marks: dict[str, list[tuple[int, int, float]]] = {name: [] for name in names.values()}
        for sample, start, end in spans:
            for state in names.keys() & recording.states(sample, {group}):
                marks[names[state]].append((start, end, 1.0))
        return Lane(label, LANE_HEIGHT, marks)

    yield states("wrk (the clients)", "wrk")
    yield states("order process", "order")
    for step in STEPS:
        waits = [(slot.asked_ns, slot.given_ns, 1.0) for slot in recording.slots if slot.step == step]
        under_way = [(batch.began_ns, batch.ended_ns, 1.0) for batch in recording.batches if batch.step == step]
        yield Lane(f"batch: {step}", LANE_HEIGHT, {"waits": waits, "batch": under_way})
    for service in (*SERVICES, "relay"):
        if service != "order":
            yield states(f"{service} process", service)
        yield states(f"Postgres for {service}", f"Postgres {service}")
    yield states("Kafka", "Kafka")


def _spans(samples: Sequence[Sample], begin: int) -> Iterator[tuple[Sample, int, int]]:
    """Yield the samples of the shown second, each with the time from it to the next one."""
    for sample, following in pairwise(samples):
        if begin <= sample.at_ns < begin + SHOWN_NS:
            yield sample, sample.at_ns, following.at_ns


def _drawn(lane: Lane, top: int, begin: int) -> Iterator[str]:
    bottom = top + lane.height
    yield f'<text x="{LABELS_WIDTH - 2}" y="{bottom - 3}" text-anchor="end">{escape(lane.label)}</text>'
    left, right = LABELS_WIDTH + MARGIN, LABELS_WIDTH + MARGIN + PLOT_WIDTH
    yield f'<line class="line" x1="{left}" y1="{bottom}.5" x2="{right}" y2="{bottom}.5"/>'
    for colour, marks in lane.marks.items():
        path = "".join(_rectangle(*mark, bottom, lane.height, begin) for mark in marks)
        if path:
            yield f'<path fill="{COLOURS[colour]}" d="{path}"/>'


def _rectangle(start: int, end: int, share: float, bottom: int, height: int, begin: int) -> str:
    """Return a part of a path, cut to the shown second; an empty one if all of it lies outside."""
    start, end = max(start, begin), min(end, begin + SHOWN_NS)
    if start >= end:
        return ""
    left = LABELS_WIDTH + MARGIN + (start - begin) * PLOT_WIDTH / SHOWN_NS
    width, high = (end - start) * PLOT_WIDTH / SHOWN_NS, round(share * height, 1)
    return f"M{left:.1f} {bottom}h{width:.1f}v-{high:g}h-{width:.1f}z"


def _legend(recording: Recording) -> Iterator[str]:
    found = shares(recording)
    yield f'<text class="minor" x="{MARGIN}" y="46">An idle core waits for:</text>'
    left = LABELS_WIDTH - 20
    for kind, causes in KINDS.items():
        text = f"{LEGEND[kind]} {sum(found[cause].first for cause in causes):.0%}"
        yield f'<rect x="{left}" y="36" width="11" height="11" fill="{COLOURS[kind]}"/>'
        yield f'<text x="{left + 16}" y="46">{escape(text)}</text>'
        left += 40 + 7 * len(text)


def _axis(top: int) -> Iterator[str]:
    for tenth in range(11):
        left = LABELS_WIDTH + MARGIN + tenth * PLOT_WIDTH // 10
        yield f'<text class="minor" x="{left}" y="{top + 12}" text-anchor="middle">{tenth * 100}</text>'
    yield (
        f'<text class="minor" x="{MARGIN}" y="{top + 32}">Milliseconds. Green: runs, or waits for a core. '
        "Red: syncs a commit to disk. Grey: waits for a lock. Batches: orange waits for a slot, blue is under way."
        "</text>"
    )
