"""The audit's result for people: one line if the books agree; else what, where, worth what, and how to repair it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.orderctl.plain import printable, sign, table

SHOWN = 20  # findings: they fit a screen, together with what to do
VALUE_CHARACTERS = 32  # of what is due or found: five columns fit 120 characters with an order's id
UNITS = {"product": ("unit of stock", "units of stock"), "coupon": ("coupon", "coupons")}
RUNBOOK = "docs/runbook.md#the-audit-finds-something"
COLUMNS = ("what", "where", "order", "due", "found", "worth")


@dataclass(frozen=True, slots=True)
class Commands:
    """How a reader gets the whole report, and releases orphans."""

    whole: str
    repair: str


def verdict(report: Mapping[str, Any], commands: Commands, *, colour: bool) -> str:
    """Return the text for an audit's report, as the API answers it."""
    count, findings = int(report["violations"]), report["findings"]
    lines = summary(report, colour=colour)
    if not report["clean"]:
        lines += ["", table([row(finding) for finding in findings[:SHOWN]], COLUMNS)]
        if count > SHOWN:
            lines.append(f"and {count - SHOWN:,} more: {commands.whole}")
        lines += ["", *repairs(findings, commands)]
    return "\n".join(lines)


def summary(report: Mapping[str, Any], *, colour: bool) -> list[str]:
    """Return the lines with the result in numbers: what was compared and found, and what was not compared."""
    count, findings = int(report["violations"]), report["findings"]
    mark = sign(good=report["clean"], colour=colour)
    lines = [f"{mark} {counted(report['orders'], 'order', 'orders')}, {counted(count, 'finding', 'findings')}"]
    if amounts := worth_of(findings):
        lines[0] += f", worth {amounts}" if count == len(findings) else f", worth at least {amounts}"
    if report["under_way"]:
        lines.append(f"  not compared, because their sagas are under way: {report['under_way']:,}")
    if recent := report.get("recent"):  # a service of an earlier version does not count them
        lines.append(f"  not compared yet, because they are only seconds old: {recent:,}")
    if before := report.get("archived_before"):
        lines.append(f"  not compared, because they may be archived: orders that were placed before {before}")
    if risk := at_risk(report.get("value_at_risk") or {}):
        lines.append(f"  value at risk: {risk}")
    return lines


def at_risk(value: Mapping[str, Any]) -> str:
    """Return what live sagas tie up, or nothing if there are none."""
    if not int(value.get("sagas", 0)):
        return ""
    tied = {"product": value["units"], "coupon": value["coupons"], "balance": value["amount"]}
    parts = [amount_of(name, int(amount)) for name, amount in tied.items() if int(amount)]
    return f"{' and '.join(parts) or 'nothing'}, in {counted(int(value['sagas']), 'live saga', 'live sagas')}"


def repairs(findings: Sequence[Mapping[str, Any]], commands: Commands) -> list[str]:
    """Return what to do about the findings, with the command where there is one."""
    kinds = sorted({str(finding["kind"]) for finding in findings})
    lines = []
    if "orphan" in kinds:
        lines += [
            "orphan: held without an order that needs it. See what would be given back, then leave the dry run out:",
            f"  {commands.repair}",
        ]
    if others := [kind for kind in kinds if kind != "orphan"]:
        lines += [f"{', '.join(others)}: somebody changed the data, or a service was restored. What to do:"]
        lines += [f"  {RUNBOOK}"]
    return lines


def row(finding: Mapping[str, Any]) -> dict[str, str]:
    """Return a line of the table."""
    return {
        "what": str(finding["kind"]),
        "where": str(finding["participant"]),
        "order": str(finding["order_id"] or "-"),
        "due": value(finding["due"]),
        "found": value(finding["found"]),
        "worth": worth_of([finding]) or "-",
    }


def value(of: Any) -> str:
    """Return what is due or found: short, on one line, and without what would control a terminal."""
    if isinstance(of, Mapping):
        text = ", ".join(f"{name}: {amount}" for name, amount in of.items())
    elif isinstance(of, list):
        text = ", ".join(str(item) for item in of)
    else:
        text = "" if of is None else str(of)
    text = printable(text) or "nothing"
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"


def worth_of(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return the value of findings, for each participant in its unit. A difference of the orders alone has no value."""
    sums: dict[str, int] = {}
    for finding in findings:
        name = str(finding["participant"]).partition("-")[0]  # of a product shard, such as product-1, the participant
        if name != "order":
            sums[name] = sums.get(name, 0) + int(finding["worth"])
    return " and ".join(amount_of(name, amount) for name, amount in sums.items())


def amount_of(name: str, amount: int) -> str:
    """Return an amount in the unit of a participant."""
    return counted(amount, *UNITS[name]) if name in UNITS else f"{amount:,} in minor units of money"


def counted(number: int, one: str, several: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else several}"
