"""Whether the cells of a platform divide all slots among themselves, as each of them reports what it owns."""

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.orderctl.verdict import Commands, verdict
from shared.slots import OLDER, SLOTS, Ownership, parse_slots

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


def verdicts(
    reports: Mapping[str, Mapping[str, Any]], wrong: Iterable[str], commands: Commands, *, colour: bool
) -> str:
    """Return the text for the audits of all cells, by their addresses, and for what is wrong with their slots."""
    parts = [f"{address}\n{verdict(report, commands, colour=colour)}" for address, report in reports.items()]
    lines = list(wrong)
    if lines:
        parts.append("\n".join(["Run no repair before this is corrected, in CELL_SLOTS of the cells:", *lines]))
    return "\n\n".join(parts)


def _of(addresses: Iterable[str]) -> str:
    return "of " + (" and ".join(addresses) or "no cell")


def _ranges(slots: list[int]) -> str:
    words = Ownership(frozenset(slots), older=False).words
    return " ".join(words[:SHOWN]) + (" …" if len(words) > SHOWN else "")
