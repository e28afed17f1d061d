"""The results of a recording as text, as a table in Markdown, and in docs/performance.md."""

from pathlib import Path
from textwrap import fill

from tests.bench.checkout.idle.chart import chart
from tests.bench.checkout.idle.moments import STEPS, Cause, Recording, idle_cores, shares, step_figures
from tests.bench.checkout.load import Load
from tests.bench.servers import REPOSITORY

PAGE = REPOSITORY / "docs" / "performance.md"
PICTURE = REPOSITORY / "docs" / "pictures" / "idle-time.svg"
BEGIN, END = "<!-- idle time: begin -->", "<!-- idle time: end -->"


def summary(recording: Recording, load: Load) -> str:
    """Return the figures of a recording in one line."""
    return (
        f"{load.scenario}, {load.clients} clients: {recording.rate:,.0f} checkouts/s. The platform left "
        f"{idle_cores(recording):.2f} of {recording.cores} cores idle, by {len(recording.samples):,} samples. By the "
        f"kernel's count, {recording.idle_cores:.2f} were idle; the sampler itself used {recording.own_cores:.2f}."
        + ("" if recording.priority else " Without the right to a real-time priority, samples came late.")
    )


def table(recording: Recording) -> str:
    """Return the shares of the idle time in Markdown. Those in the second column add up to 100%."""
    found = shares(recording)
    lines = [
        "| an idle core waits for | share of the idle time | present at all |",
        "|---|--:|--:|",
    ]
    for cause in Cause:
        share = found[cause]
        lines.append(f"| {cause.value} | {share.first:.1%} | {share.present:.1%} |")
    return "\n".join([*lines, f"| together | {sum(share.first for share in found.values()):.1%} | |"])


def step_table(recording: Recording) -> str:
    """Return the batches of each step in Markdown."""
    lines = [
        "| batches of the step | a second | items in one | wait for a slot, p50 and p99 | under way, p50 and p99 |",
        "|---|--:|--:|--:|--:|",
    ]
    for step in STEPS:
        found = step_figures(recording, step)
        times = " | ".join(f"{half:.1f} and {most:.1f} ms" for half, most in (found.waited_ms, found.under_way_ms))
        lines.append(f"| {step} | {found.batches_per_second:.0f} | {found.size:.1f} | {times} |")
    return "\n".join(lines)


def tables(recording: Recording) -> str:
    """Return both tables."""
    return f"{table(recording)}\n\n{step_table(recording)}"


def picture(recording: Recording, load: Load) -> str:
    """Return the chart of a recording."""
    return chart(recording, f"One second of {load.clients} clients, {load.scenario}: {recording.rate:,.0f} checkouts/s")


def write(recording: Recording, load: Load, page: Path = PAGE, drawn: Path = PICTURE) -> None:
    """Put the picture under docs/, and the figures between the two marks of the page."""
    drawn.write_text(picture(recording, load))
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    figures = fill(summary(recording, load), 110, break_on_hyphens=False)
    page.write_text(f"{before}{BEGIN}\n{figures}\n\n{tables(recording)}\n\n{END}{after}")
