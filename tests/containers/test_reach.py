"""docs/reach.md says what each container reaches and can do; here each of its tables is measured."""

import re
from collections.abc import Callable, Sequence

import pytest

from tests.containers.engine import REPOSITORY, Platform
from tests.containers.reach import Reached, Row, commands, connections, reached, schemas, topics

DOCUMENT = REPOSITORY / "docs" / "reach.md"
# Prints the status of the issuer's answer to a request for a token.
ASK_FOR_A_TOKEN = """
import http.client
connection = http.client.HTTPConnection("issuer", 8007, timeout=10)
connection.request("POST", "/token", "sub=root&scope=ops", {"Content-Type": "application/x-www-form-urlencoded"})
print(connection.getresponse().status)
"""


@pytest.fixture(scope="module")
def found(platform: Platform) -> Reached:
    """Which ports each container reaches."""
    return reached(platform)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown; the first row is its head."""
    head, *others = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *others])


def documented(heading: str) -> str:
    """Return the table of a section."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.M | re.S)
    assert section is not None
    return "\n".join(line for line in section[1].splitlines() if line.startswith("|"))


MEASURED: dict[str, Callable[[Platform, Reached], Sequence[Row]]] = {
    "Connections": lambda _, found: connections(found),
    "Commands to participants": commands,
    "The database": lambda platform, _: schemas(platform),
    "Kafka": lambda platform, _: topics(platform),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("heading", MEASURED)
def test_a_container_reaches_and_can_do_what_is_documented(platform: Platform, found: Reached, heading: str) -> None:
    measured = table(MEASURED[heading](platform, found))
    print(f"docs/reach.md, {heading}: {len(measured.splitlines()) - 2} rows\n\n{measured}")
    assert measured == documented(heading)


def test_issuer_refuses_a_container_that_asks_for_a_token(platform: Platform) -> None:
    assert platform.execute("coupon", ["python", "-"], ASK_FOR_A_TOKEN).strip() == "404"
