"""Every fenced block of a document is run or checked by a test that is named here, or says why none can."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel

from services.coupon.api import NewCoupon
from services.order.api import NewOrder, OrderView
from services.product.api import NewProduct
from services.relay.completeness.digests import Digests
from shared.contracts.events import OrderPaid
from shared.contracts.watermark import OrderWatermark
from tests.runbook.blocks import FENCE, PAGES
from tests.unit.test_compose import TRACING
from tests.unit.test_docs import DOCUMENTS, REPOSITORY

HERE = "tests/unit/test_fenced_blocks.py"
# Page and language, and the tests that run or check all such blocks of that page.
CHECKED = {
    ("README.md", "sh"): "tests/system/test_tutorial.py",
    ("deploy/client/README.md", "python"): "tests/contract/test_client.py",
    ("deploy/kubernetes/README.md", "yaml"): "tests/manifests/test_relations.py",
    ("deploy/orderctl/README.md", "sh"): "tests/system/test_orderctl.py",
    ("docs/api.md", "json"): HERE,
    ("docs/events.md", "json"): HERE,
    ("docs/events.md", "python"): "tests/integration/consumer/test_example.py",
    ("docs/failover.md", "yaml"): "tests/manifests/test_operators.py",
    ("docs/ko/README.md", "sh"): "tests/unit/test_korean_docs.py",
    ("docs/ko/tutorial.md", "python"): "tests/unit/test_korean_docs.py",
    ("docs/ko/tutorial.md", "sh"): "tests/unit/test_korean_docs.py",
    ("docs/ko/tutorial.md", "text"): "tests/unit/test_korean_docs.py",
    ("docs/scaling.md", "sql"): "tests/integration/order_audit/test_archive.py",
    ("docs/tracing.md", "yaml"): HERE,
    ("docs/tutorial.md", "python"): "tests/system/test_tutorial.py",
    ("docs/tutorial.md", "sh"): "tests/system/test_tutorial.py",
    ("docs/tutorial.md", "text"): "tests/system/test_tutorial.py",
    # The blocks of the runbook and of failover.md say themselves which test runs them, or why none does.
    **{
        (str(page.relative_to(REPOSITORY)), language): "tests/unit/runbook/test_blocks.py"
        for page in PAGES
        for language in ("sh", "sql")
    },
}
NOT_RUN = {
    ("deploy/console/README.md", "sh"): "needs a Docker engine; tests/containers builds the image and signs in",
    ("deploy/ha/README.md", "sh"): "installs packages of the machine",
    ("docs/runbook.md", "text"): "a line of a log",
    ("docs/tracing.md", "sh"): "starts a collector, from an image that tests can't get everywhere",
}
# In order of the page. The classes are those with which a service reads or writes such an object.
EXAMPLES: dict[str, list[type[BaseModel]]] = {
    "docs/api.md": [NewOrder, OrderView, NewProduct, NewCoupon],
    "docs/events.md": [OrderPaid, OrderWatermark, Digests],
}


def blocks(page: Path) -> dict[str, list[str]]:
    """Return the blocks of a page by language. A picture is no text that could be run."""
    found: dict[str, list[str]] = defaultdict(list)
    for match in FENCE.finditer(page.read_text()):
        if match["language"] != "mermaid":
            found[match["language"]].append(match["code"])
    return found


def test_every_block_is_run_or_checked_or_there_is_a_reason() -> None:
    found = {(str(page.relative_to(REPOSITORY)), language) for page in DOCUMENTS for language in blocks(page)}
    assert not CHECKED.keys() & NOT_RUN.keys()
    assert found - CHECKED.keys() - NOT_RUN.keys() == set(), "which test runs it?"
    gone = (CHECKED.keys() | NOT_RUN.keys()) - found
    assert {page for page, _ in gone} <= {str(page.relative_to(REPOSITORY)) for page in PAGES}


def test_the_tests_that_check_a_page_are_there() -> None:
    for (page, _), test in CHECKED.items():
        text = (REPOSITORY / test).read_text()
        if test not in (HERE, "tests/unit/runbook/test_blocks.py"):
            assert Path(page).name in text or Path(page).parent.name in text, (page, test)


def test_fences_are_closed() -> None:
    for page in DOCUMENTS:
        fences = re.findall(r"^ *```", page.read_text(), re.M)
        assert len(fences) == 2 * len(list(FENCE.finditer(page.read_text()))), page


@pytest.mark.parametrize(
    ("page", "number", "model"),
    [(page, n, model) for page, models in EXAMPLES.items() for n, model in enumerate(models)],
)
def test_object_on_a_page_is_one_that_a_service_reads_or_writes(page: str, number: int, model: type[BaseModel]) -> None:
    shown = blocks(REPOSITORY / page)["json"]
    assert len(shown) == len(EXAMPLES[page])
    assert shown[number] == shown[number].strip() + "\n"
    written: dict[str, Any] = json.loads(shown[number])
    assert written.keys() <= model.model_json_schema(mode="validation")["properties"].keys()
    model.model_validate_json(re.sub(r'"[0-9a-f]*…"', f'"{"5c4e" * 16}"', shown[number]))


def test_networks_of_the_documented_collector_are_those_of_the_services() -> None:
    [text] = blocks(REPOSITORY / "docs" / "tracing.md")["yaml"]
    described = yaml.safe_load(text)
    own = described["networks"].keys()
    assert set(described["services"]["collector"]["networks"]) == TRACING["networks"].keys() | own
