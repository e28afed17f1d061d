"""Renders the manifests of deploy/kubernetes with kustomize, as users do, and knows what is in them."""

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.manifests.tools import KUSTOMIZE, go_tool

REPOSITORY = Path(__file__).parents[2]
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
SERVICES = ("order", "product", "coupon", "balance", "relay", "consumer")
# Everything that somebody applies: what all share, each service alone, and all at once.
ROOTS = sorted(
    str(file.parent.relative_to(KUBERNETES))
    for folder in ("bases", "overlays")
    for file in (KUBERNETES / folder).glob("**/kustomization.yaml")
)
# Together they have every object that a base or an overlay makes.
COMPLETE = (
    "overlays/small",
    "overlays/production",
    "overlays/custom-metrics/order",
    "overlays/custom-metrics/relay",
    "overlays/draining/order",
)

Manifest = dict[str, Any]


@cache
def rendered(root: str) -> str:
    """Return what `kustomize build` prints for a folder of deploy/kubernetes."""
    return build(KUBERNETES / root)


def build(folder: Path) -> str:
    """Return what `kustomize build` prints for a folder."""
    command = [str(go_tool(KUSTOMIZE)), "build", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, result.stderr  # warns of what is deprecated
    return result.stdout


@cache
def manifests(root: str) -> tuple[Manifest, ...]:
    """Return the objects of a folder of deploy/kubernetes."""
    return tuple(yaml.safe_load_all(rendered(root)))


def of_kind(root: str, kind: str) -> list[Manifest]:
    """Return the objects of one kind."""
    return [one for one in manifests(root) if one["kind"] == kind]


def the(root: str, kind: str, name: str) -> Manifest:
    """Return one object."""
    (found,) = (one for one in of_kind(root, kind) if one["metadata"]["name"] == name)
    return found


def workloads(root: str) -> Iterator[Manifest]:
    """Yield the objects that make pods."""
    for one in manifests(root):
        if one["kind"] in {"Deployment", "Job"}:
            yield one


def pod(workload: Manifest) -> Manifest:
    """Return the spec of a workload's pods."""
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Manifest) -> Manifest:
    """Return the one container of a workload's pods."""
    (only,) = pod(workload)["containers"]
    found: Manifest = only
    return found


def labels(workload: Manifest) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def service_of(workload: Manifest) -> str:
    """Return the service that a workload runs."""
    return labels(workload)["app.kubernetes.io/name"]


def environment(root: str, workload: Manifest) -> dict[str, str]:
    """Return what a workload's manifests set in the environment of its container."""
    only = container(workload)
    found: dict[str, str] = {}
    for source in only.get("envFrom", ()):
        found |= the(root, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {one["name"]: one["value"] for one in only.get("env", ())}


def selects(selector: Manifest, given: dict[str, str]) -> bool:
    """Return whether a label selector selects an object with the given labels."""
    wanted = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", ())
    assert {one["operator"] for one in expressions} <= {"In"}
    return all(given.get(key) == value for key, value in wanted.items()) and all(
        given.get(one["key"]) in one["values"] for one in expressions
    )
