"""What the manifests let a deployment take: connections to Postgres, CPU and memory, and what it is scaled by."""

import re
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from deploy.consumer.settings import ConsumerSettings
from shared.postgres.connecting import DatabaseSettings
from tests.manifests.rendering import KUBERNETES, REPOSITORY, SERVICES, container, environment, of_kind, service_of, the
from tests.manifests.test_relations import DEPLOYMENTS, JOBS, README, named, table

SHARDS = 4  # of the relay, by default
# Connections beside the pool (docs/runbook.md, "The database"): the order service's starts, transitions, lease and
# readiness; a participant's commands and readiness; the relay's shards, its notifier and readiness; the consumer's
# probes.
BESIDE_POOL = {"order": 4, "product": 2, "coupon": 2, "balance": 2, "relay": SHARDS + 2, "consumer": 1}
MIGRATION = 2  # one holds the lock, one migrates
OTHERS = 20  # ten of services_monitor, seven of operators, and superuser_reserved_connections


def replicas(root: str, service: str) -> int:
    (deployment,) = of_kind(root, "Deployment")
    for autoscaler in of_kind(root, "HorizontalPodAutoscaler"):
        assert autoscaler["spec"]["scaleTargetRef"]["name"] == service
        # Pods that end are one at a time, as when they are replaced.
        down = autoscaler["spec"]["behavior"]["scaleDown"]["policies"]
        assert [(one["type"], one["value"]) for one in down] == [("Pods", 1)]
        assert down[0]["periodSeconds"] > deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        return int(autoscaler["spec"]["maxReplicas"])
    return int(deployment["spec"]["replicas"])


def connections(root: str, service: str) -> int:
    (deployment,) = of_kind(root, "Deployment")
    settings = ConsumerSettings if service == "consumer" else DatabaseSettings
    default = settings.model_fields["pool_size"].default
    return int(environment(root, deployment).get(f"{service.upper()}_POOL_SIZE", default)) + BESIDE_POOL[service]


@pytest.mark.parametrize("overlay", ["small", "production"])
def test_connections_to_postgres_fit_its_limit(overlay: str) -> None:
    introduction = rf"With the {overlay} overlay,(?: Postgres needs `max_connections` of)? at least (\d+):"
    limit = re.search(introduction, README)
    assert limit
    most = int(limit[1])
    rows: list[list[str]] = []
    logins: dict[str, int] = {}
    for service in SERVICES:
        root = f"overlays/{overlay}/{service}"
        count, each = replicas(root, service), connections(root, service)
        logins[service] = (count + 2) * each  # one that starts, and one that ends
        rows.append([service, str(count), str(count + 2), str(each), str(logins[service])])
    total = sum(logins.values())
    if overlay == "production":
        draining = connections("overlays/draining/order", "order")
        assert of_kind("overlays/draining/order", "Deployment")[0]["spec"]["replicas"] == 1
        rows.append(["an order service that drains", "1", "1", str(draining), str(draining)])
        logins["order"] += draining
        total += draining
    migrations = len(SERVICES) * MIGRATION
    rows.append(
        ["migrations, all at the same time", "", str(len(SERVICES)), str(MIGRATION), str(migrations)],
    )
    total += migrations + OTHERS
    rows += [["operators, exporter, superuser", "", "", "", str(OTHERS)], ["all", "", "", "", str(total)]]
    assert table(limit[0]) == rows
    assert total <= most
    assert max(logins.values()) <= most // 4  # deploy/sql/roles.sql


def test_the_relay_has_no_more_replicas_than_shards() -> None:
    assert replicas("overlays/production/relay", "relay") <= SHARDS


@pytest.mark.parametrize(("root", "workload"), named([*DEPLOYMENTS, *JOBS]))
def test_a_process_may_use_a_core_and_has_a_limit_of_memory(root: str, workload: Any) -> None:
    """A limit of CPU would slow a burst down, although the node has idle cores."""
    resources = container(workload)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory", "ephemeral-storage"}, root
    assert set(resources["limits"]) == {"memory", "ephemeral-storage"}


def test_the_resources_of_the_readme_are_those_of_the_manifests() -> None:
    rows = {row[0]: row[1:] for row in table("### Resources")}
    assert set(rows) == set(SERVICES) - {"consumer"}
    for root, workload in DEPLOYMENTS:
        measured, requested, limit = rows.get(service_of(workload), rows["relay"])
        resources = container(workload)["resources"]
        assert resources["requests"]["memory"] == requested.replace(" MiB", "Mi"), root
        assert resources["limits"]["memory"] == limit.replace(" MiB", "Mi")
        assert int(measured.split()[0]) < int(requested.split()[0])


def test_every_service_is_scaled_by_metrics_that_exist() -> None:
    documented = set(re.findall(r"^\| `([a-z]\w+)`", (REPOSITORY / "docs" / "metrics.md").read_text(), re.M))
    rules = yaml.safe_load((KUBERNETES / "overlays/custom-metrics/prometheus-adapter.yaml").read_text())
    served = {
        kind: {re.match(r"\w+", one["seriesQuery"])[0] for one in rules[key]}  # type: ignore[index]
        for kind, key in (("pods", "rules"), ("external", "externalRules"))
    }
    asked: dict[str, set[str]] = {"pods": set(), "external": set()}
    for service in ("order", "relay"):
        scaler = the(f"overlays/custom-metrics/{service}", "HorizontalPodAutoscaler", service)
        cpu, own = scaler["spec"]["metrics"]
        assert cpu["resource"]["name"] == "cpu"
        kind = own["type"].lower()
        asked[kind].add(own[kind]["metric"]["name"])
    assert asked == served
    assert asked["pods"] | asked["external"] <= documented
    assert service_of(of_kind("overlays/custom-metrics/relay", "Deployment")[0]) == "relay"
