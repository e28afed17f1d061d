"""What compose.yaml lets each container do to the machine and to the others; docs/reach.md is measured from it."""

import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

REPOSITORY = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
TRACING: dict[str, Any] = yaml.safe_load((REPOSITORY / "deploy" / "compose.tracing.yaml").read_text())


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_is_confined(name: str) -> None:
    container = CONTAINERS[name]
    assert container["cap_drop"] == ["ALL"]
    assert "cap_add" not in container
    assert "privileged" not in container
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["read_only"] is (name != "kafka")
    assert 0 < container["pids_limit"] <= 512
    assert re.fullmatch(r"\d+[mg]", container["mem_limit"])
    # Images of ours run as 10001; Kafka's has a user of its own.
    assert "build" in container or name == "kafka" or container["user"] not in {"root", "0", "0:0"}


def test_a_secret_of_a_participant_is_mounted_where_it_is_made_or_used() -> None:
    mounted = {
        (volume.split(":")[0], name)
        for name, container in CONTAINERS.items()
        for volume in container.get("volumes", ())
        if "-secrets:" in volume
    }
    participants = ("product", "coupon", "balance")
    users = chain.from_iterable((one, "order", "secrets") for one in participants)
    owners = chain.from_iterable([f"{one}-secrets"] * 3 for one in participants)
    assert mounted == set(zip(owners, users, strict=True))


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name.endswith("-migrate")])
def test_a_migration_gets_only_the_database(name: str) -> None:
    """Its container has neither secrets of calls, nor Kafka's password, nor a token."""
    service = name.removesuffix("-migrate")
    assert CONTAINERS[name]["volumes"] == [f"{service}-migrator:/database:ro"]
    assert CONTAINERS[name]["networks"] == [f"{service}-data"]


def test_a_password_is_in_no_environment() -> None:
    variables = {
        (variable, str(value))
        for container in CONTAINERS.values()
        for variable, value in container.get("environment", {}).items()
    }
    assert not {one for one in variables if one[0].endswith("PASSWORD") or re.search(r"://[^/]*:[^/]*@", one[1])}


def test_a_login_of_the_database_is_mounted_where_it_is_made_set_or_used() -> None:
    users: dict[str, set[str]] = {}
    for name, container in CONTAINERS.items():
        for volume in container.get("volumes", ()):
            if re.search(r"-(login|migrator):", volume):
                users.setdefault(volume.split(":")[0], set()).add(name)
    services = ("order", "product", "coupon", "balance", "relay", "consumer")
    logins = {f"{one}-login": {one, "secrets", "roles"} for one in services}
    logins["relay-login"].add("relay-bootstrap")
    migrators = {f"{one}-migrator": {f"{one}-migrate", "secrets", "roles"} for one in services}
    assert users == {"postgres-login": {"postgres", "secrets", "roles"}, **logins, **migrators}
    assert all(volume.endswith(":ro") for volume in CONTAINERS["roles"]["volumes"])


def test_a_release_can_pin_each_image() -> None:
    images = {container["image"] for container in CONTAINERS.values()}
    assert all(re.fullmatch(r"\$\{[A-Z]+_IMAGE:-.+\}|order-platform/.+:\$\{VERSION:-local\}", one) for one in images)


def test_only_ports_of_this_machine_are_published_and_no_network_leads_out() -> None:
    ports = [port for container in CONTAINERS.values() for port in container.get("ports", ())]
    assert ports
    assert all(re.match(r"127\.0\.0\.1:|\$\{GATEWAY_ADDRESS:-127\.0\.0\.1:", port) for port in ports)
    options = {"com.docker.network.bridge.enable_icc", "com.docker.network.bridge.enable_ip_masquerade"}
    for network in COMPOSE["networks"].values():
        assert network.get("internal") or set(network["driver_opts"].items()) == {(one, "false") for one in options}
    for container in CONTAINERS.values():
        assert container.get("networks") or container["network_mode"] == "none"


def test_a_container_that_ends_has_no_health_check_of_its_image() -> None:
    ending = {
        name
        for container in CONTAINERS.values()
        for name, state in container.get("depends_on", {}).items()
        if state["condition"] == "service_completed_successfully"
    }
    assert ending
    assert not [name for name in ending if "build" in CONTAINERS[name] and "healthcheck" not in CONTAINERS[name]]
    assert all(CONTAINERS[name].get("healthcheck", {"disable": True}) == {"disable": True} for name in ending)


def test_tracing_is_passed_on_to_every_service_and_shares_a_network_with_it_alone() -> None:
    documented = set(re.findall(r"`(OTEL_\w+)`", (REPOSITORY / "docs" / "tracing.md").read_text()))
    # A common name would hide which service a span is of; the others would need a file or a secret.
    others = {"OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_CERTIFICATE"}
    services = ("order", "product", "coupon", "balance", "relay", "consumer")
    assert TRACING["services"] == {
        name: {"environment": dict.fromkeys(documented - others), "networks": [f"{name}-traces"]} for name in services
    }
    assert TRACING["networks"] == {f"{name}-traces": {"internal": True} for name in services}
