"""Who may connect to whom, computed from all network policies as a cluster does, and the routes from outside."""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest

from tests.manifests.rendering import REPOSITORY, SERVICES, labels, of_kind, selects, the, workloads
from tests.manifests.test_relations import table

PLATFORM = "order-platform"
DNS = {"k8s-app": "kube-dns"}
# Namespaces whose name is not that of what is in them.
SPACES = {"names": "kube-system", "prometheus": "monitoring", "collector": "tracing"}
ROUTED = ("order", "product", "coupon", "balance")


@dataclass(frozen=True)
class Place:
    """What policies see of a pod: its namespace, labels, and ports by name; a port of 0 has no name."""

    name: str
    namespace: dict[str, str]
    labels: dict[str, str]
    ports: dict[str, int]


def outside(name: str, ports: list[int], own: dict[str, str] | None = None) -> Place:
    namespace = {"kubernetes.io/metadata.name": SPACES.get(name, name)}
    if name == "gateway":
        namespace["order-platform/gateway"] = "true"
    return Place(name, namespace, own or {}, {str(port): port for port in ports})


def places(overlay: str) -> list[Place]:
    """Return every pod of ours, and those that ours talk to, with more ports than they should reach."""
    found = []
    roots = [f"overlays/{overlay}/{name}" for name in (*SERVICES, "console")]
    for root in [*roots, "overlays/draining/order"]:
        for workload in workloads(root):
            given = labels(workload)
            name, component = given["app.kubernetes.io/name"], given["app.kubernetes.io/component"]
            (only,) = workload["spec"]["template"]["spec"]["containers"]
            ports = {one["name"]: one["containerPort"] for one in only.get("ports", ())}
            shown = name if component in ("service", "console") else f"{name} ({component})"
            found.append(Place(shown, {"kubernetes.io/metadata.name": PLATFORM}, given, ports))
    return [
        *found,
        outside("gateway", [8080]),
        outside("prometheus", [9090]),
        outside("postgres", [5432, 22]),
        outside("kafka", [9092, 9093, 9094, 9095]),
        outside("issuer", [443, 80]),
        outside("collector", [4318, 4317]),
        outside("names", [53, 9153], DNS),
        outside("elsewhere", [80, 443]),
    ]


def policies(overlay: str) -> list[dict[str, Any]]:
    roots = (f"overlays/{overlay}", "overlays/draining/order")
    return [one["spec"] for root in roots for one in of_kind(root, "NetworkPolicy")]


def allows(rules: list[dict[str, Any]], peers: str, other: Place, name: str, port: int) -> bool:
    """Return whether one of a policy's rules allows a connection with `other`, to a port."""
    for rule in rules:
        if not any(one["port"] in (name, port) for one in rule["ports"]):
            continue
        for peer in rule[peers]:
            assert peer  # an empty one would be everybody
            space = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": PLATFORM}})
            if selects(space, other.namespace) and selects(peer.get("podSelector", {}), other.labels):
                return True
    return False


def may(kind: str, overlay: str, place: Place, other: Place, name: str, port: int) -> bool:
    """Return whether the policies of a pod allow what comes (Ingress), or what it begins (Egress)."""
    if place.namespace["kubernetes.io/metadata.name"] != PLATFORM:
        return True  # has policies of its own
    own = [one for one in policies(overlay) if selects(one["podSelector"], place.labels) and kind in one["policyTypes"]]
    assert own  # otherwise everything would be allowed
    peers = "from" if kind == "Ingress" else "to"
    return any(allows(one.get(kind.lower(), []), peers, other, name, port) for one in own)


@pytest.mark.parametrize("overlay", ["small", "production"])
def test_network_policies_allow_exactly_what_the_table_says(overlay: str) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    known = places(overlay)
    for source in known:
        for target in known:
            if source == target or PLATFORM not in (*source.namespace.values(), *target.namespace.values()):
                continue
            for name, port in target.ports.items():
                if may("Egress", overlay, source, target, name, port) and may(
                    "Ingress", overlay, target, source, name, port
                ):
                    found[source.name].add(f"{target.name} {port}")
    documented: dict[str, set[str]] = {}
    for source_name, targets in table("## Who may talk to whom"):
        names = [f"{service} (migration)" for service in SERVICES] if source_name == "each migration" else [source_name]
        documented |= {name: set(targets.split(", ")) for name in names}
    assert dict(found) == documented


def test_only_those_of_security_md_reach_where_commands_are_served() -> None:
    """The order service; probes, Prometheus and the console."""
    rows = table("## Who may talk to whom")
    reach = {source for source, targets in rows for target in targets.split(", ") if re.search(r" 81\d\d$", target)}
    assert reach == {"order", "order (draining)", "prometheus", "console"}


def test_only_the_console_reaches_the_operators_listeners_and_nobody_its_pages() -> None:
    rows = table("## Who may talk to whom")
    targets = [(source, target) for source, targets in rows for target in targets.split(", ")]
    assert {source for source, target in targets if re.search(r" 82\d\d$", target)} == {"console"}
    assert [one for one in targets if one[1].startswith("console")] == [("prometheus", "console 8120")]


@pytest.mark.parametrize("overlay", ["small", "production"])
def test_a_pod_that_no_policy_names_is_closed(overlay: str) -> None:
    everything = [one for one in policies(overlay) if one["podSelector"] == {}]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in everything


def test_routes_forward_exactly_the_calls_of_clients() -> None:
    api = (REPOSITORY / "docs" / "api.md").read_text()
    called = set(re.findall(r"`(?:GET|POST|PATCH) (/v1/[a-z]+)", api)) - {"/v1/digests", "/v1/events"}
    gateway = (REPOSITORY / "deploy" / "gateway" / "nginx.conf").read_text()
    shipped = {
        path: (name, int(port))
        for pattern, name, port in re.findall(r"~\^(\S+) +http://(\w+):(\d+);", gateway)
        for path in re.sub(r"[()]", "", pattern.replace("|", "|/")).split("|")
    }
    forwarded: dict[str, tuple[str, int]] = {}
    for service in ROUTED:
        (route,) = of_kind(f"overlays/production/{service}", "HTTPRoute")
        for rule in route["spec"]["rules"]:
            (backend,) = rule["backendRefs"]
            assert {match["path"]["type"] for match in rule["matches"]} == {"PathPrefix"}
            forwarded |= {match["path"]["value"]: (backend["name"], backend["port"]) for match in rule["matches"]}
            # The Service has the public listener only.
            target = the(f"bases/{service}", "Service", backend["name"])
            assert [one["targetPort"] for one in target["spec"]["ports"]] == ["public"]
    assert set(forwarded) == called | {"/problems"}
    assert forwarded == shipped
    others = [service for service in SERVICES if service not in ROUTED]
    assert not [one for service in others for one in of_kind(f"overlays/production/{service}", "HTTPRoute")]
