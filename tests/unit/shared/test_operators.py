"""A command line accepts the same values as the API, and reports other values in one line."""

import argparse
import pwd
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from services.order.admin.api import AgeSeconds
from services.relay.replay.api import Topic
from shared.contracts.types import Id, Name
from shared.notation import Timestamp, Uuid
from shared.operators import add_who, argument, table

ID = "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Uuid, ID, UUID(ID)),
        (Timestamp, "2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (AgeSeconds, "2.5", 2.5),
        (int, "1", 1),
        (Name, "the clock of the host was wrong", "the clock of the host was wrong"),
        (Topic, "orders.again", "orders.again"),
    ],
)
def test_argument_is_converted_to_its_type(kind: Any, text: str, value: Any) -> None:
    assert argument(kind)(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((Uuid, text) for text in (f"urn:uuid:{ID}", f"{{{ID}}}", ID.replace("-", ""))),
        *((Timestamp, text) for text in ("20300101", "0", "1893456000", "2030-01-01", "2030-01-01T00:00:00", "now")),
        *((AgeSeconds, text) for text in ("inf", "nan", "-1", "1e300", "1_0", " 1", "1e9999")),
        *((int, text) for text in ("1_0", "1.0", "+1", "\u0661", "")),
        *((Name, text) for text in ("", "x" * 201, "a\nb", "\udcff")),
        *((Id, text) for text in ("", "x" * 129, "a\x1b[2J")),
        *((Topic, text) for text in ("a/b", "orders\n", "")),
    ],
)
def test_an_argument_that_the_api_refuses_is_refused(kind: Any, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        argument(kind)(text)
    assert "\n" not in str(refused.value)


def test_table_has_a_line_for_each_row_or_one_that_says_none() -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "seconds": 2.6, "why": None},
        {"id": 10, "seconds": None, "why": {"a": [1]}},
    ]
    assert table(rows).split("\n") == ["id  seconds  why", "1   3        -", '10  -        {"a":[1]}']
    assert table([]) == "none"


def account(name: str, uid: int, shell: str) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", "/", shell))


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (account("sue", 1000, "/bin/bash"), "sue"),
        (account("root", 0, "/bin/bash"), None),
        (account("service", 10001, "/usr/sbin/nologin"), None),
        (account("service", 10001, "/bin/false"), None),
        (account("service", 10001, ""), None),
        (None, None),
    ],
)
def test_operator_must_be_named_where_no_person_is_logged_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], user: Any, expected: str | None
) -> None:
    def find(_uid: int) -> pwd.struct_passwd:
        if user is None:
            raise KeyError
        found: pwd.struct_passwd = user
        return found

    monkeypatch.setattr(pwd, "getpwuid", find)
    monkeypatch.setenv("USER", "service")  # the images set it
    parser = argparse.ArgumentParser()
    add_who(parser)
    assert parser.parse_args(["--reason", "x", "--by", "olga"]).by == "olga"
    if expected is not None:
        assert parser.parse_args(["--reason", "x"]).by == expected
        return
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--reason", "x"])
    assert ended.value.code == 2
    assert "--by" in capsys.readouterr().err
