"""The page that `make run` prints."""

import json
import re
from pathlib import Path

import pytest

from deploy.local.configuration import read
from deploy.local.terminal import commands, place, ready_page

CONSOLE, PLAYGROUND = "http://127.0.0.1:8020", "http://127.0.0.1:8021"
PLACES = [("console", CONSOLE), ("playground", PLAYGROUND)]


def test_every_service_is_listed_with_its_docs() -> None:
    page = ready_page(read({"RELAY_PORT": "9005"}), PLACES, "127.0.0.1:9092", Path("/x/run.json"), demo=True)
    for url in ("http://127.0.0.1:8001/docs", "http://127.0.0.1:8004/docs", "http://127.0.0.1:9005/docs"):
        assert url in page
    assert "http://127.0.0.1:8011/docs" in page
    assert "127.0.0.1:9092" in page


def test_without_demo_data_no_commands_are_printed() -> None:
    page = ready_page(read({}), PLACES, "127.0.0.1:9092", Path("/x/run.json"), demo=False)
    assert "curl" not in page


def test_a_command_places_an_order_as_the_contract_has_it() -> None:
    body = re.search(r"-d '(.*)'", place("curl", "http://127.0.0.1:8001", "later"))
    assert body is not None
    assert json.loads(body.group(1)) == {
        "user_id": "alice",
        "lines": [{"product_id": "keyboard", "quantity": 1}],
        "payment": "later",
    }


@pytest.mark.parametrize("jwt", [False, True])
def test_each_command_is_one_line(jwt: bool) -> None:
    lines = commands("http://127.0.0.1:8001", jwt=jwt)
    assert sum("curl" in line for line in lines) == 2
    assert sum("make -s token SUB=alice" in line for line in lines) == (2 if jwt else 0)


def test_issuer_is_listed_where_tokens_are_asked_for() -> None:
    assert "make token" in ready_page(read({"AUTH": "jwt"}), PLACES, "127.0.0.1:9092", Path("/x/run.json"), demo=True)
    assert "make token" not in ready_page(read({}), PLACES, "127.0.0.1:9092", Path("/x/run.json"), demo=True)


def test_console_is_the_first_address_and_the_playground_the_second() -> None:
    page = ready_page(read({}), PLACES, "127.0.0.1:9092", Path("/x/run.json"), demo=True)
    addresses = re.findall(r"http://\S+", page)
    assert addresses[:2] == [CONSOLE, PLAYGROUND]


def test_run_without_a_playground_names_none() -> None:
    page = ready_page(read({}), [("console", CONSOLE), ("playground", "")], "x:1", Path("/x/run.json"), demo=True)
    assert "playground" not in page
