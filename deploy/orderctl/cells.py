"""The audits of all cells: whether the cells divide all slots among themselves, and what they found together."""

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.orderctl.verdict import Commands, summary, verdict
from shared.slots import OLDER, SLOTS, Ownership, parse_slots

SHARED = "product"  # the participant whose shards serve all cells
COUNTED = ("orders", "under_way", "recent")
SHOWN = 8  # ranges of slots on a line


def disagreements(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each thing that is wrong. `reports`: of the cells' audits, by their addresses."""
    # An order service of an earlier version takes everything that is held for other cells for orphans.
    if ignorant := [address for address, report in reports.items() if "cell" not in report]:
        return [f"{' and '.join(ignorant)}: this version of the order service knows no cells"]
    cells = {address: report["cell"] for address, report in reports.items()}
    owners: dict[int, list[str]] = {slot: [] for slot in range(SLOTS)}
    older: list[str] = []
    for address, cell in cells.items():
        words = str(cell["slots"]).split()
        for slot in parse_slots(words):
            owners[slot].append(address)
        if OLDER in words:
            older.append(address)
    by_owners: dict[tuple[str, ...], list[int]] = {}
    for slot, of in owners.items():
        if len(of) != 1:
            by_owners.setdefault(tuple(of), []).append(slot)
    lines = [f"slots {_ranges(slots)}: {_of(of)}" for of, slots in by_owners.items()]
    if len(older) != 1:
        lines.append(f"orders from before the slots: {_of(older)}")
    times = {str(cell["slots_since"]) for cell in cells.values()}
    if len(times) > 1:
        lines.append(f"the cells have different CELL_SLOTS_SINCE: {', '.join(sorted(times))}")
    return lines


def together(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the audits of all cells found together, in the form of one report.

    Each cell compares its own orders, and what its own sagas tie up at all shards, so these are added. All of them read
    the books of the same product shards: what is wrong in these counts once, and so do their totals.
    """
    findings: list[Mapping[str, Any]] = []
    shared: set[tuple[str, str]] = set()
    twice = 0
    totals: dict[str, Mapping[str, int]] = {}
    for report in reports.values():
        for finding in report["findings"]:
            if finding["kind"] == "books" and str(finding["participant"]).startswith(SHARED):
                about = str(finding["participant"]), str(finding["due"])
                if about in shared:
                    twice += 1
                    continue
                shared.add(about)
            findings.append(finding)
        for name, sums in report.get("totals", {}).items():
            if name != SHARED or name not in totals:
                totals[name] = _sums([totals.get(name, {}), sums])
    return {
        "clean": all(report["clean"] for report in reports.values()),
        **_sums([{name: report.get(name, 0) for name in COUNTED} for report in reports.values()]),
        "violations": sum(report["violations"] for report in reports.values()) - twice,
        "findings": findings,
        "totals": totals,
        "value_at_risk": _value_at_risk([report.get("value_at_risk", {}) for report in reports.values()]),
    }


def _value_at_risk(values: Iterable[Mapping[str, Any]]) -> dict[str, int | float]:
    values = list(values)
    ages = {name for value in values for name in value if name.endswith("_seconds")}
    return {
        **_sums([{name: value[name] for name in value if name not in ages} for value in values]),
        **{name: max(value.get(name, 0.0) for value in values) for name in sorted(ages)},
    }


def _sums(counts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the sums by name. Integers beyond 64 bits are texts."""
    sums: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            sums[name] = sums.get(name, 0) + int(count)
    return sums


def verdicts(
    reports: Mapping[str, Mapping[str, Any]], wrong: Iterable[str], commands: Commands, *, colour: bool
) -> str:
    """Return the text for the audits of all cells, by their addresses, and for what is wrong with their slots."""
    parts = [f"{address}\n{verdict(report, commands, colour=colour)}" for address, report in reports.items()]
    if len(reports) > 1:
        parts.append("\n".join(["together", *summary(together(reports), colour=colour)]))
    lines = list(wrong)
    if lines:
        parts.append("\n".join(["Run no repair before this is corrected, in CELL_SLOTS of the cells:", *lines]))
    return "\n\n".join(parts)


def _of(addresses: Iterable[str]) -> str:
    return "of " + (" and ".join(addresses) or "no cell")


def _ranges(slots: list[int]) -> str:
    words = Ownership(frozenset(slots), older=False).words
    return " ".join(words[:SHOWN]) + (" …" if len(words) > SHOWN else "")
