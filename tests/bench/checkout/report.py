"""The results as tables and as a chart."""

from collections.abc import Mapping, Sequence
from html import escape

from tests.bench.checkout.figures import Spread

# The rates that are shown, in this order, with their titles.
ROWS: Mapping[str, str] = {
    "cold 1": "cold, 1 client",
    "cold 16": "cold, 16 clients",
    "cold 64": "cold, 64 clients",
    "cold 64 keyed": "cold, 64 clients, each with an Idempotency-Key",
    "cold 64 by 2 orders": "cold, 64 clients, two replicas of the order service",
    "cold 256": "cold, 256 clients",
    "hot 64": "hot, 64 clients",
    "later 64": "placed, then paid, 64 clients",
    "refusals 64": "one in five refused, 64 clients",
    "pgbench saga": "pgbench, saga-shaped",
    "pgbench single": "pgbench, saga-shaped, one statement a transaction",
    "pgbench local": "pgbench, one local transaction",
    "pgbench saga hot": "pgbench, saga-shaped, hot",
    "pgbench single hot": "pgbench, one statement a transaction, hot",
    "pgbench saga 1 client": "pgbench, saga-shaped, 1 client",
    "peer": "dbos, two processes pinned to cores",
}
BAR_HEIGHT, LABEL_WIDTH, BARS_WIDTH, MARGIN = 22, 330, 460, 90
COLOURS = {"pgbench": "#8a9ba8", "peer": "#c8a45c", "": "#2f6f4f"}


def table(spreads: Mapping[str, Spread]) -> str:
    """Return rates, latencies and costs, a line for each of ROWS that was measured."""
    head = f"{'':<52}{'checkouts/s':>12}{'range':>16}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'commits':>9}{'WAL B':>8}"
    lines = [head]
    for name, label in ROWS.items():
        if name not in spreads:
            continue
        rate = spreads[name]
        cells = [
            f"{label:<52}{rate.median:>12,.0f}{f'{rate.low:,.0f}-{rate.high:,.0f}':>16}",
            cell(spreads, f"{name} p50", 1000, 9, 1),
            cell(spreads, f"{name} p99", 1000, 9, 1),
            cell(spreads, f"{name} cpu", 1, 9, 0),
            cell(spreads, f"{name} transactions", 1, 9, 2),
            cell(spreads, f"{name} wal", 1, 8, 0),
        ]
        lines.append("".join(cells).rstrip())
    return "\n".join(lines)


def cell(spreads: Mapping[str, Spread], name: str, divisor: float, width: int, digits: int) -> str:
    """Return a median, or spaces of the same width."""
    if name not in spreads:
        return " " * width
    return f"{spreads[name].median / divisor:>{width},.{digits}f}"


def cpu_table(spreads: Mapping[str, Spread], loads: Sequence[str]) -> str:
    """Return the CPU per checkout and process, in us and as shares of the product's total."""
    processes = sorted({name.partition(" cpu ")[2] for name in spreads if " cpu " in name})
    lines = [f"{'CPU us a checkout (share)':<28}" + "".join(f"{load:>18}" for load in loads)]
    for process in processes:
        cells = ""
        for load in loads:
            name = f"{load} cpu {process}"
            if name in spreads:
                share = spreads[name].median / spreads[f"{load} cpu"].median
                cells += f"{f'{spreads[name].median:,.0f} ({share:.0%})':>18}"
            else:
                cells += " " * 18
        lines.append(f"{process:<28}{cells}".rstrip())
    return "\n".join(lines)


def chart(spreads: Mapping[str, Spread], title: str) -> str:
    """Return the rates as bars, with the range of the rounds, as an SVG document."""
    rows = [(name, label, spreads[name]) for name, label in ROWS.items() if name in spreads]
    highest = max((spread.high for _, _, spread in rows), default=1.0)
    height = (len(rows) + 2) * BAR_HEIGHT
    width = LABEL_WIDTH + BARS_WIDTH + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="10" y="{BAR_HEIGHT - 6}" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, label, spread) in enumerate(rows, 1):
        parts += _bar(number * BAR_HEIGHT + 6, name, label, spread, BARS_WIDTH / highest)
    return "\n".join([*parts, "</svg>\n"])


def _bar(top: int, name: str, label: str, spread: Spread, scale: float) -> list[str]:
    colour = COLOURS.get(name.partition(" ")[0], COLOURS[""])
    middle = top + (BAR_HEIGHT - 6) / 2
    low, high = LABEL_WIDTH + spread.low * scale, LABEL_WIDTH + spread.high * scale
    return [
        f'<text x="{LABEL_WIDTH - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>',
        f'<rect x="{LABEL_WIDTH}" y="{top}" width="{spread.median * scale:.1f}" height="{BAR_HEIGHT - 6}" '
        f'fill="{colour}"/>',
        f'<line x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}" stroke="black"/>',
        f'<text x="{high + 6:.1f}" y="{middle + 4}">{spread.median:,.0f}/s</text>',
    ]
