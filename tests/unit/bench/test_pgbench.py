"""The scripts for pgbench, and their comparison with the product."""

import re

import pytest

from tests.bench.checkout.pgbench import row_differences
from tests.bench.checkout.scripts import SHAPES, script

WRITTEN = {
    "orders.orders",
    "orders.sagas",
    "orders.outbox",
    "products.products",
    "products.holds",
    "products.gates",
    "products.outcomes",
    "coupons.coupons",
    "coupons.gates",
    "coupons.outcomes",
    "balances.accounts",
    "balances.entries",
    "balances.gates",
    "balances.outcomes",
}


@pytest.mark.parametrize("hot", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_writes_every_table(shape: str, *, hot: bool) -> None:
    assert set(re.findall(r"(?:INSERT INTO|UPDATE) (\w+\.\w+)", script(shape, hot=hot))) == WRITTEN


def test_saga_commits_after_each_participant_and_once_for_local_steps() -> None:
    assert script("saga", hot=False).count("COMMIT;") == 5
    assert script("local", hot=False).count("COMMIT;") == 1
    assert script("single", hot=False).count("COMMIT;") == 0


def test_conditions_are_closed_where_they_are_opened() -> None:
    for shape in SHAPES:
        text = script(shape, hot=False)
        assert text.count("\\if") == text.count("\\endif")


def test_rows_that_agree_but_for_chance_are_no_difference() -> None:
    assert row_differences({"a": 1.0, "b": 0.31}, {"a": 1.0, "b": 0.29}) == []


def test_a_process_own_rows_are_no_difference() -> None:
    assert row_differences({"orders.processes": 0.001}, {"orders.processes": 0.0}) == []


def test_a_table_that_pgbench_leaves_out_is_named() -> None:
    (line,) = row_differences({"orders.new": 1.0, "a": 1.0}, {"a": 1.0})
    assert line.startswith("orders.new: the product adds 1.000 rows a checkout, pgbench 0.000")


def test_a_table_that_the_product_no_longer_writes_is_named() -> None:
    (line,) = row_differences({"a": 1.0}, {"a": 1.0, "orders.old": 1.0})
    assert line.startswith("orders.old:")
