"""What the audit prints for people: the verdict first, then each finding with its value and its repair."""

from typing import Any

from deploy.orderctl.verdict import SHOWN, VALUE_CHARACTERS, Commands, verdict

COMMANDS = Commands("see all", "release them")
ORDER = "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11"


def a_finding(kind: str = "orphan", participant: str = "product", **changed: Any) -> dict[str, Any]:
    """Return a finding as JSON has it."""
    shown: dict[str, Any] = {"due": {}, "found": {"keyboard": 3}, "worth": 3}
    return {"kind": kind, "participant": participant, "order_id": ORDER} | shown | changed


def a_report(*findings: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Return a report of eight orders."""
    counts = {"clean": not findings, "violations": len(findings), "orders": 8, "under_way": 0}
    return counts | {"findings": list(findings)} | changed


def test_books_that_agree_are_one_line() -> None:
    assert verdict(a_report(), COMMANDS, colour=False) == "✓ 8 orders, 0 findings"
    assert verdict(a_report(orders=1), COMMANDS, colour=False) == "✓ 1 order, 0 findings"


def test_orders_that_were_not_compared_are_counted() -> None:
    (_, line) = verdict(a_report(under_way=1200), COMMANDS, colour=False).splitlines()
    assert line == "  not compared, because their sagas are under way: 1,200"


def test_orders_that_are_too_young_to_be_compared_are_counted() -> None:
    lines = verdict(a_report(orders=0, recent=2), COMMANDS, colour=False).splitlines()
    assert lines == ["✓ 0 orders, 0 findings", "  not compared yet, because they are only seconds old: 2"]


def test_value_at_risk_is_shown_while_sagas_live() -> None:
    risk = {"sagas": 1, "units": 1, "coupons": 0, "amount": 300}
    (_, line) = verdict(a_report(value_at_risk=risk), COMMANDS, colour=False).splitlines()
    assert line == "  value at risk: 1 unit of stock and 300 in minor units of money, in 1 live saga"
    idle = dict.fromkeys(risk, 0)
    assert verdict(a_report(value_at_risk=idle), COMMANDS, colour=False) == "✓ 8 orders, 0 findings"


def test_orders_that_may_be_archived_are_mentioned() -> None:
    (_, line) = verdict(a_report(archived_before="2026-01-01T00:00:00Z"), COMMANDS, colour=False).splitlines()
    assert line == "  not compared, because they may be archived: orders that were placed before 2026-01-01T00:00:00Z"


def test_orphan_is_shown_with_its_place_value_and_repair() -> None:
    lines = verdict(a_report(a_finding()), COMMANDS, colour=False).splitlines()
    assert lines[0] == "✗ 8 orders, 1 finding, worth 3 units of stock"
    assert lines[2].split() == ["what", "where", "order", "due", "found", "worth"]
    assert " ".join(lines[3].split()) == f"orphan product {ORDER} nothing keyboard: 3 3 units of stock"
    assert lines[-1] == "  release them"
    assert "runbook" not in "\n".join(lines)


def test_units_of_product_shards_are_added_and_each_finding_names_its_shard() -> None:
    findings = [a_finding(participant=place) for place in ("product-0", "product-1")]
    lines = verdict(a_report(*findings), COMMANDS, colour=False).splitlines()
    assert lines[0].endswith("2 findings, worth 6 units of stock")
    assert [line.split()[1] for line in lines[3:5]] == ["product-0", "product-1"]


def test_finding_without_a_command_leads_to_the_runbook() -> None:
    finding = a_finding("missing", "balance", due={"alice": 8900}, found={}, worth=8900)
    lines = verdict(a_report(finding), COMMANDS, colour=False).splitlines()
    assert lines[0].endswith("1 finding, worth 8,900 in minor units of money")
    assert lines[-1].strip() == "docs/runbook.md#the-audit-finds-something"
    assert "release" not in "\n".join(lines)


def test_values_are_added_per_unit_and_those_of_events_are_none() -> None:
    findings = [
        a_finding(),
        a_finding(worth=2),
        a_finding(participant="coupon", found={"WELCOME10": "REDEEMED"}, worth=1),
        a_finding("books", "balance", order_id=None, worth="18446744073709551616"),
        a_finding("events", "order", due=["1 order.paid.v1"], found=[], worth=1),
    ]
    text = verdict(a_report(*findings), COMMANDS, colour=False)
    worth = "worth 5 units of stock and 1 coupon and 18,446,744,073,709,551,616 in minor units of money"
    assert text.splitlines()[0] == f"✗ 8 orders, 5 findings, {worth}"
    assert "books, events: somebody changed the data" in text


def test_many_findings_are_cut_and_the_rest_is_counted() -> None:
    lines = verdict(a_report(*[a_finding()] * 100, violations=5000), COMMANDS, colour=False).splitlines()
    assert lines[0] == "✗ 8 orders, 5,000 findings, worth at least 300 units of stock"
    assert sum(ORDER in line for line in lines) == SHOWN
    assert "and 4,980 more: see all" in lines


def test_values_are_short_and_never_control_the_terminal() -> None:
    found = {"a\x1b[2J\nb": 1, "x" * 500: 2}
    lines = verdict(a_report(a_finding(found=found)), COMMANDS, colour=False).splitlines()
    assert "a?[2J?b: 1, xxx" in lines[3]
    assert "x" * VALUE_CHARACTERS not in lines[3]
    assert all(len(line) <= 120 for line in lines)


def test_only_the_sign_has_a_colour() -> None:
    assert verdict(a_report(), COMMANDS, colour=True) == "\x1b[32m✓\x1b[0m 8 orders, 0 findings"
    first = verdict(a_report(a_finding()), COMMANDS, colour=True).splitlines()[0]
    assert first == "\x1b[31m✗\x1b[0m 8 orders, 1 finding, worth 3 units of stock"
