"""The resources of docs/failover.md for the operators of Postgres have only fields that the operators know."""

import re
from typing import Any

import jsonschema
import pytest
import yaml  # type: ignore[import-untyped]

from tests.manifests.rendering import REPOSITORY
from tests.manifests.test_valid import schema_of

PAGE = REPOSITORY / "docs" / "failover.md"
RESOURCES = [yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.M | re.S)]


def test_the_page_has_a_resource_for_each_operator() -> None:
    assert [one["kind"] for one in RESOURCES] == ["Cluster", "postgresql"]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: str(one["kind"]))
def test_operator_knows_every_field(resource: dict[str, Any]) -> None:
    jsonschema.validate(resource, schema_of(resource))


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: str(one["kind"]))
def test_misspelt_field_is_noticed(resource: dict[str, Any]) -> None:
    wrong = resource | {"spec": {**resource["spec"], "synchronousMode": True}}
    with pytest.raises(jsonschema.ValidationError, match="synchronousMode"):
        jsonschema.validate(wrong, schema_of(wrong))
