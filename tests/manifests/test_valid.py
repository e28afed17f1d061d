"""The manifests are valid: for the oldest and the newest Kubernetes that we name, and for the CRDs that they use."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml  # type: ignore[import-untyped]

from tests.manifests import alert_rules
from tests.manifests.rendering import COMPLETE, KUBERNETES, REPOSITORY, manifests, of_kind, rendered

OLDEST, NEWEST = "1.31", "1.37"
OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
# Where the definitions of resources come from that Kubernetes itself doesn't have: Go modules of their projects.
DEFINITIONS = {
    "HTTPRoute": (
        "sigs.k8s.io/gateway-api@v1.4.1",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    "ServiceMonitor": (OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"),
    "PrometheusRule": (OPERATOR, "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
    # Only docs/failover.md has these two.
    "Cluster": (
        "github.com/cloudnative-pg/cloudnative-pg@v1.28.0",
        "config/crd/bases/postgresql.cnpg.io_clusters.yaml",
    ),
    "postgresql": ("github.com/zalando/postgres-operator@v1.15.1", "manifests/postgresql.crd.yaml"),
}


@cache
def definition(kind: str) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    module, file = DEFINITIONS[kind]
    command = ["go", "mod", "download", "-json", module]
    downloaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    crd: dict[str, Any] = yaml.safe_load((Path(json.loads(downloaded.stdout)["Dir"]) / file).read_text())
    return crd


def closed(schema: Any) -> Any:
    """Return the schema of a resource, such that it refuses fields that it doesn't name, as the API server warns of."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(found.get("pattern"), str):
        found["pattern"] = found["pattern"].replace("^(?i)", "(?i)^")  # Python has flags at the beginning only
    if "properties" in found and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def schema_of(resource: dict[str, Any]) -> Any:
    """Return the schema of a custom resource, from its definition."""
    crd = definition(resource["kind"])["spec"]
    group, version = resource["apiVersion"].split("/")
    (served,) = (each for each in crd["versions"] if each["name"] == version)
    assert group == crd["group"]
    assert served["served"]
    schema = closed(served["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("root", COMPLETE)
def test_kubernetes_knows_every_field(root: str, version: str, tmp_path: Path) -> None:
    own = [one for one in manifests(root) if one["kind"] not in DEFINITIONS]
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(own))
    command = [".venv-manifests/bin/kubernetes-validate", "-k", version, "--strict", "--no-warn", str(file)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_custom_resource_fits_its_definition() -> None:
    found = [one for one in manifests("overlays/production") if one["kind"] in DEFINITIONS]
    assert {one["kind"] for one in found} == {"HTTPRoute", "ServiceMonitor", "PrometheusRule"}
    for one in found:
        jsonschema.validate(one, schema_of(one))


def test_the_alerts_are_those_of_prometheus() -> None:
    assert alert_rules.FILE.read_text() == alert_rules.text(), "`make manifest-rules` writes the file again"
    (one,) = of_kind("overlays/production/platform", "PrometheusRule")
    groups = [
        group
        for file in sorted(alert_rules.RULES.glob("*.yml"))
        for group in yaml.safe_load(file.read_text())["groups"]
    ]
    assert one["spec"]["groups"] == groups


def test_a_folder_is_rendered_the_same_by_each_name() -> None:
    """All services at once are exactly the services one by one."""
    for overlay in ("small", "production"):
        folders = sorted(path.parent for path in (KUBERNETES / "overlays" / overlay).glob("*/kustomization.yaml"))
        each = [one for folder in folders for one in manifests(str(folder.relative_to(KUBERNETES)))]
        together = manifests(f"overlays/{overlay}")
        assert sorted(map(json.dumps, each)) == sorted(map(json.dumps, together))
    assert rendered("overlays/small")
