"""A profile assigns statements, plans and stacks to purposes."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.checkout import plans
from tests.bench.checkout.purposes import OTHER, of_relation, of_stack, sql_purposes
from tests.bench.checkout.stacks import Stacks, load_speedscope
from tests.bench.checkout.statements import Statement, form, label, round_trips


def statement(service: str, query: str, milliseconds: float = 10.0, *, toplevel: bool = True) -> Statement:
    return Statement(service, query, toplevel, 2, 2, milliseconds, 0)


def plan(**node: Any) -> dict[str, Any]:
    return {"Actual Total Time": 0.0, "Actual Loops": 1, **node}


@pytest.mark.parametrize(
    ("table", "purpose"),
    [
        ("gates", "fences"),
        ("outcomes", "stored outcomes"),
        ("entries", "ledger"),
        ("sagas", "saga record"),
        ("outbox", "outbox"),
        ("holds", OTHER),
        ("orders", OTHER),
    ],
)
def test_a_table_has_its_purpose(table: str, purpose: str) -> None:
    assert of_relation(table) == purpose


def test_a_statement_that_writes_two_tables_is_for_both_by_its_plan() -> None:
    tree = plan(
        **{
            "Actual Total Time": 10.0,
            "Relation Name": "orders",
            "Plans": [plan(**{"Actual Total Time": 4.0, "Relation Name": "sagas"})],
        }
    )
    found = plans.shares(iter([{"Query Text": "move", "Plan": tree}]))
    assert found == {"move": {OTHER: 0.6, "saga record": 0.4}}


def test_a_foreign_key_is_checked_for_the_table_that_has_it() -> None:
    logged = {
        "Query Text": "write",
        "Plan": plan(**{"Actual Total Time": 3.0, "Relation Name": "holds"}),
        "Triggers": [{"Relation": "outcomes", "Time": 1.0}],
    }
    assert plans.shares(iter([logged])) == {"write": {OTHER: 0.75, "stored outcomes": 0.25}}


def test_a_node_that_ran_often_counts_each_time() -> None:
    node = plan(**{"Actual Total Time": 0.5, "Actual Loops": 4, "Relation Name": "gates"})
    tree = plan(**{"Actual Total Time": 2.0, "Plans": [node]})
    assert dict(plans.own_times(tree, "")) == {"": 0.0, "gates": 2.0}


def test_plans_are_found_in_a_log_among_other_lines() -> None:
    body = "\n".join("\t" + line for line in json.dumps({"Query Text": "x"}, indent=1).splitlines())
    log = f"2026 LOG:  started\n2026 LOG:  duration: 0.1 ms  plan:\n{body}\n2026 LOG:  ended\n"
    assert list(plans.sampled(log)) == [{"Query Text": "x"}]


def test_a_plan_that_was_cut_off_is_left_out() -> None:
    assert list(plans.sampled('2026 LOG:  duration: 0.1 ms  plan:\n\t{"Query Text\n')) == []


def test_statements_count_by_their_plans_shares() -> None:
    found = sql_purposes([statement("order", "UPDATE  a")], {"UPDATE a": {OTHER: 0.5, "saga record": 0.5}})
    assert found == {OTHER: 5.0, "saga record": 5.0}


def test_plan_is_matched_to_its_statement_despite_replaced_constants() -> None:
    counted = statement("product", "INSERT INTO products.holds SELECT $1, $2, $3 WHERE $4")
    logged = "INSERT INTO products.holds SELECT $1, 'HELD', 1 WHERE true"
    assert sql_purposes([counted], {logged: {"fences": 1.0}}) == {"fences": 10.0}


def test_statements_of_a_function_count_instead_of_its_call() -> None:
    call = statement("product", "SELECT products.decide($1)", 10.0)
    inner = statement("product", "INSERT INTO products.gates", 4.0, toplevel=False)
    found = sql_purposes([call, inner], {"INSERT INTO products.gates": {"fences": 1.0}})
    assert found == {OTHER: 6.0, "fences": 4.0}


def test_the_check_of_a_foreign_key_is_not_counted_twice() -> None:
    check = statement("product", "SELECT 1 FROM ONLY products.gates x", 4.0, toplevel=False)
    assert sql_purposes([statement("product", "INSERT", 10.0), check], {}) == {OTHER: 10.0}


def test_all_that_the_relay_does_is_for_the_outbox() -> None:
    assert sql_purposes([statement("relay", "SELECT 1")], {}) == {"outbox": 10.0}


def test_a_call_of_a_function_is_one_round_trip() -> None:
    inner = statement("order", "UPDATE", toplevel=False)
    assert round_trips([statement("order", "SELECT f()"), inner]) == {"order": 2}


def test_a_query_is_named_though_postgres_replaced_its_constants() -> None:
    known = {form("SELECT * FROM orders.orders WHERE status = 'PAID'"): "list_paid"}
    assert label("SELECT * FROM orders.orders\n WHERE status = $1", known) == "list_paid"
    assert label("VACUUM", known) == "VACUUM"


def test_stack_gets_the_purpose_of_its_innermost_known_function() -> None:
    frames = [("asyncpg/connection.py", "execute"), ("shared/participant/gates.py", "write_outcomes")]
    assert of_stack(frames) == "stored outcomes"
    assert of_stack([("services/order/api.py", "place")]) == OTHER
    assert of_stack([("shared/participant/protocol.py", "decide")]) == "stored outcomes"


def test_event_loop_time_is_distributed_like_the_other_time() -> None:
    loop = (("shared/process/main.py", "main"),)
    gates = (("shared/participant/gates.py", "open_gates"), *loop)
    api = (("services/product/api.py", "commands"), *loop)
    shares = Stacks({loop: 6.0, gates: 1.0, api: 3.0}).purposes("product")
    assert shares == {"fences": 0.25, OTHER: 0.75}


def test_stacks_are_read_innermost_frame_first(tmp_path: Path) -> None:
    path = tmp_path / "speedscope.json"
    frames = [
        {"name": "main", "file": "/somewhere/shared/process/main.py"},
        {"name": "place", "file": "/somewhere/services/order/api.py"},
    ]
    profile = {"samples": [[0, 1], [0]], "weights": [0.2, 0.1]}
    path.write_text(json.dumps({"shared": {"frames": frames}, "profiles": [profile]}))
    stacks = load_speedscope(path)
    assert stacks.by_function() == {"services/order/api.py:place": 0.2, "shared/process/main.py:main": 0.1}
