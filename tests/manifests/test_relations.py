"""The manifests agree with the services that they run: settings, ports, files, versions, and the database's limit."""

import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from pydantic_settings import BaseSettings

from deploy.console.settings import ConsoleSettings
from shared.identity.modes import errors
from shared.process.main import STOP_MAX_SECONDS
from shared.process.settings import STOP_DELAY_MAX_SECONDS
from tests.manifests.rendering import (
    KUBERNETES,
    REPOSITORY,
    ROOTS,
    SERVICES,
    build,
    container,
    environment,
    labels,
    manifests,
    of_kind,
    pod,
    selects,
    service_of,
    the,
    workloads,
)
from tests.unit.test_docs import settings_of

TRACED = {"resource": "overlays/production/{}", "component": "components/traced"}
README = (KUBERNETES / "README.md").read_text()
OVERLAYS = [root for root in ROOTS if root.startswith("overlays/") and root.count("/") == 2]
ALL = [*(root for root in ROOTS if root.startswith("bases/")), *OVERLAYS]


def package_of(service: str) -> str:
    return f"deploy.{service}" if service in ("consumer", "console") else f"services.{service}"


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading of the README, without its header."""
    section = README.split(f"{heading}\n", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", section, re.M)
    assert rows
    return [[cell.strip(" `") for cell in row[1:-1].split("|")] for row in rows[0].splitlines()[2:]]


def image_environment(service: str) -> dict[str, str]:
    """Return the variables that the service's Dockerfile sets."""
    dockerfile = REPOSITORY.joinpath(*package_of(service).split("."), "Dockerfile").read_text()
    return dict(re.findall(r"\b([A-Z_]+)=(\S+)", " ".join(re.findall(r"^ENV (.*)$", dockerfile, re.M))))


def each(roots: list[str], *kinds: str) -> Iterator[tuple[str, Any]]:
    for root in roots:
        for workload in workloads(root):
            if workload["kind"] in kinds:
                yield root, workload


DEPLOYMENTS = list(each(ALL, "Deployment"))
JOBS = list(each(ALL, "Job"))


def named(pairs: list[tuple[str, Any]]) -> list[Any]:
    return [pytest.param(*pair, id=f"{pair[0]} {pair[1]['kind']}") for pair in pairs]


@pytest.mark.parametrize("service", SERVICES)
def test_a_base_has_everything_that_its_service_needs(service: str) -> None:
    kinds = {one["kind"] for one in manifests(f"bases/{service}")}
    assert kinds >= {"Deployment", "Job", "Service", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy"}
    deployment = the(f"bases/{service}", "Deployment", service)
    assert deployment["spec"]["replicas"] == 2
    (budget,) = of_kind(f"bases/{service}", "PodDisruptionBudget")
    assert selects(budget["spec"]["selector"], labels(deployment))
    (policy,) = of_kind(f"bases/{service}", "NetworkPolicy")
    assert selects(policy["spec"]["podSelector"], labels(deployment))


@pytest.mark.parametrize("root", ["bases/console", "overlays/small/console", "overlays/production/console"])
def test_the_console_is_one_pod_that_may_start_in_jwt_mode(root: str) -> None:
    (deployment,) = of_kind(root, "Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert not of_kind(root, "PodDisruptionBudget")
    variables = {**image_environment("console"), **environment(root, deployment)}
    given: dict[str, Any] = {
        name.removeprefix("CONSOLE_").lower(): value
        for name, value in variables.items()
        if name.startswith(("CONSOLE_", "AUTH_"))
    }
    settings = ConsoleSettings(**given)
    assert (settings.auth_mode, settings.errors(), errors(settings)) == ("jwt", [], [])
    assert settings.origins == {"http://127.0.0.1:8020", "http://localhost:8020"}
    (policy,) = of_kind(root, "NetworkPolicy")
    assert "Ingress" in policy["spec"]["policyTypes"]
    assert "ingress" not in policy["spec"]


@pytest.mark.parametrize(("root", "workload"), named([*DEPLOYMENTS, *JOBS]))
def test_every_variable_is_a_setting_of_the_service(root: str, workload: Any) -> None:
    assert set(environment(root, workload)) <= settings_of(package_of(service_of(workload)))


@pytest.mark.parametrize(("root", "workload"), named([*DEPLOYMENTS, *JOBS]))
def test_a_service_accepts_its_settings(
    root: str, workload: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are loaded as the process loads them, with a file at every place where one is mounted."""
    service = service_of(workload)
    variables = {**image_environment(service), **environment(root, workload)}
    for name, value in variables.items():
        if name.endswith("_FILE"):
            file = tmp_path / value.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("postgresql://user:secret@postgres/platform" if "DATABASE" in name else "order secret")
            variables[name] = str(file)
    variables.pop("KAFKA_SSL_CA_FILE", None)  # would have to be a certificate
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    module = import_module(f"{package_of(service)}.settings")
    (found,) = (
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, BaseSettings) and member.__module__ == module.__name__
    )
    found()


@pytest.mark.parametrize(("root", "workload"), named([*DEPLOYMENTS, *JOBS]))
def test_a_file_of_the_settings_is_mounted_from_a_secret_that_the_readme_asks_for(root: str, workload: Any) -> None:
    sources = {
        volume["name"]: volume["secret"]["secretName"] if "secret" in volume else volume["configMap"]["name"]
        for volume in pod(workload).get("volumes", ())
    }
    mounted = container(workload).get("volumeMounts", ())
    mounts = {one["mountPath"]: sources[one["name"]] for one in mounted}
    assert all(one["readOnly"] for one in mounted)
    assert set(sources.values()) == set(mounts.values())
    files = [Path(value) for name, value in environment(root, workload).items() if name.endswith("_FILE")]
    used = {mounts[str(file.parent)]: file.name for file in files}
    assert set(used) == set(mounts.values())  # nothing is mounted that no setting names
    must_exist = {row[0]: row[1].split("`, `") for row in table("## Before the first deployment")}
    for name, key in used.items():
        assert key in must_exist[name], name


@pytest.mark.parametrize("root", ROOTS)
def test_no_secret_is_in_a_manifest(root: str) -> None:
    for one in manifests(root):
        assert one["kind"] != "Secret"
        assert not re.search(r"://[^/\s]*:[^/\s]*@", str(one))
    for workload in workloads(root):
        given = environment(root, workload)
        assert not {name for name in given if name.endswith(("PASSWORD", "DATABASE_URL", "_SECRET", "_TOKEN"))}


@pytest.mark.parametrize(("root", "workload"), named([*DEPLOYMENTS, *JOBS]))
def test_a_migration_gets_the_login_of_the_migrator_and_nothing_else(root: str, workload: Any) -> None:
    assert root
    service = service_of(workload)
    migrates = workload["kind"] == "Job"
    secrets = {volume.get("secret", {}).get("secretName") for volume in pod(workload).get("volumes", ())}
    assert (f"{service}-migrator" in secrets) is migrates
    assert not migrates or len(secrets) == 1


@pytest.mark.parametrize(("root", "workload"), named(DEPLOYMENTS))
def test_ports_are_those_of_the_image_and_services_lead_to_them(root: str, workload: Any) -> None:
    service = service_of(workload)
    ports = {one["name"]: one["containerPort"] for one in container(workload)["ports"]}
    image = image_environment(service)
    prefix = service.upper()
    if service == "consumer":
        assert ports == {"internal": int(image[f"{prefix}_PORT"])}
    else:
        public = "pages" if service == "console" else "public"
        known = {public: int(image[f"{prefix}_PORT"]), "internal": int(image[f"{prefix}_INTERNAL_PORT"])}
        admin = environment(root, workload).get(f"{prefix}_ADMIN_PORT")
        assert ports == known | ({} if admin is None else {"admin": int(admin)})
        assert (admin is not None) is (service in ("order", "relay"))
    assert image[f"{prefix}_HOST"] == "0.0.0.0"
    reached = set()
    for one in of_kind(root, "Service"):
        (port,) = one["spec"]["ports"]
        assert one["metadata"]["labels"]["listener"] == port["name"]
        # Prometheus would read each pod twice, if two Services were called internal.
        assert port["targetPort"] == {"replicas": "internal"}.get(port["name"], port["name"])
        assert port["port"] == ports[port["targetPort"]]
        assert selects({"matchLabels": one["spec"]["selector"]}, labels(workload))
        reached.add(port["name"])
    expected = {"draining": {"internal"}}
    complete = set(ports) if service in ("consumer", "console") else {*ports, "replicas"}
    assert reached == expected.get(labels(workload)["app.kubernetes.io/component"], complete)
    probes = [container(workload)[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert [(one["port"], one["path"]) for one in probes] == [
        ("internal", "/livez"),
        ("internal", "/livez"),
        ("internal", "/readyz"),
    ]


@pytest.mark.parametrize(("root", "workload"), named(DEPLOYMENTS))
def test_an_address_of_another_service_leads_to_it(root: str, workload: Any) -> None:
    for name, value in environment(root, workload).items():
        match = re.fullmatch(r"http://([a-z]+)(-\w+)?:(\d+)", value)
        if not match:
            assert name != "CONSUMER_RELAY_URL"
            assert not re.fullmatch(r"ORDER_\w+_URL|CONSOLE_\w+_(URL|REPLICAS)", name)
            continue
        service = the(f"bases/{match[1]}", "Service", match[1] + (match[2] or ""))
        assert [one["port"] for one in service["spec"]["ports"]] == [int(match[3])]
        # Commands are served at the internal listener, and the relay's events at the public one.
        listeners = {
            r"ORDER_\w+": "-internal",
            r"CONSOLE_\w+_ADMIN_URL": "-admin",
            r"CONSOLE_\w+_REPLICAS": "-replicas",
        }
        assert match[2] == next((suffix for of, suffix in listeners.items() if re.fullmatch(of, name)), None)
        assert (service["spec"].get("clusterIP") == "None") is (match[2] == "-replicas")


@pytest.mark.parametrize("root", ALL)
def test_image_label_and_job_have_one_version(root: str) -> None:
    found = list(workloads(root))
    for workload in found:
        version = labels(workload)["app.kubernetes.io/version"]
        assert workload["metadata"]["labels"]["app.kubernetes.io/version"] == version
        image, _, tag = container(workload)["image"].rpartition(":")
        assert tag == version
        assert image.endswith(f"order-platform/{service_of(workload)}")
        if workload["kind"] == "Job":
            assert workload["metadata"]["name"] == f"{service_of(workload)}-migrate-{version}"
    if root.startswith("overlays/draining"):
        (one,) = found
        current = the("overlays/production/order", "Deployment", "order")
        assert container(one)["image"] != container(current)["image"]


@pytest.mark.parametrize(("root", "job"), named(JOBS))
def test_a_job_depends_on_nothing_that_changes_without_its_version(root: str, job: Any) -> None:
    """A Job can't be changed: with the same name and other contents, `kubectl apply` fails."""
    assert "envFrom" not in container(job)
    assert not [volume for volume in pod(job)["volumes"] if "configMap" in volume]
    assert pod(job)["restartPolicy"] == "Never"  # the policy for exit statuses needs it
    assert container(job)["args"][-1] == "migrate"
    assert root


@pytest.mark.parametrize(("root", "workload"), named([*DEPLOYMENTS, *JOBS]))
def test_no_variable_of_kubernetes_passes_for_a_setting(root: str, workload: Any) -> None:
    """Kubernetes would set ORDER_PORT=tcp://10.0.0.1:8001 for the Service `order`."""
    assert pod(workload)["enableServiceLinks"] is False, root


@pytest.mark.parametrize(("root", "workload"), named(DEPLOYMENTS))
def test_a_pod_has_time_to_stop_before_the_next_one_is_replaced(root: str, workload: Any) -> None:
    grace = pod(workload)["terminationGracePeriodSeconds"]
    assert grace >= STOP_DELAY_MAX_SECONDS + STOP_MAX_SECONDS + 2
    if service_of(workload) != "consumer":  # nothing waits for its answers
        assert environment(root, workload)["AUTH_MODE"] == "jwt"  # the mode in which it delays its stop
    if workload["spec"]["strategy"]["type"] == "Recreate":
        return  # waits until the old pod has ended
    assert grace < workload["spec"]["minReadySeconds"]
    assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_draining_build_begins_no_sagas() -> None:
    root = "overlays/draining/order"
    (deployment,) = of_kind(root, "Deployment")
    assert environment(root, deployment)["ORDER_EXPIRY_INTERVAL_SECONDS"] == "31536000"
    for one in [*of_kind("overlays/production/order", "Service"), *of_kind("overlays/small/order", "Service")]:
        assert not selects({"matchLabels": one["spec"]["selector"]}, labels(deployment))
    # Its selector is no part of the other one's: a Deployment would adopt the other's pods.
    current = the("overlays/production/order", "Deployment", "order")
    assert not selects(current["spec"]["selector"], labels(deployment))
    assert not selects(deployment["spec"]["selector"], labels(current))


def test_overlay_may_change_what_the_readme_says(tmp_path: Path) -> None:
    setting, patch = (yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```$", README, re.M | re.S))
    used = [os.path.relpath(KUBERNETES / "overlays/production" / name, tmp_path) for name in ("order", "platform")]
    overlay = {"resources": used, "namespace": "order-platform", **setting, **patch}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    found = list(yaml.safe_load_all(build(tmp_path)))
    (settings,) = (one for one in found if one["kind"] == "ConfigMap" and "AUTH_ISSUER" in one.get("data", {}))
    assert settings["data"]["AUTH_ISSUER"] == "https://login.example.com"
    (policy,) = (one for one in found if one["metadata"]["name"] == "to-postgres")
    assert policy["spec"]["egress"][0]["to"] == [{"ipBlock": {"cidr": "10.20.0.0/24"}}]


@pytest.mark.parametrize("service", SERVICES)
def test_traces_are_turned_on_by_a_component(service: str, tmp_path: Path) -> None:
    used = {name: os.path.relpath(KUBERNETES / path, tmp_path) for name, path in TRACED.items()}
    overlay = {"resources": [used["resource"].format(service)], "components": [used["component"]]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    found = list(yaml.safe_load_all(build(tmp_path)))
    (given,) = (one for one in found if one["kind"] == "ConfigMap")
    (deployment,) = (one for one in found if one["kind"] == "Deployment")
    root = f"overlays/production/{service}"
    (before,) = of_kind(root, "ConfigMap")
    added = given["data"].keys() - before["data"].keys()
    assert {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER"} <= added
    assert added <= set(re.findall(r"`(OTEL_\w+)`", (REPOSITORY / "docs" / "tracing.md").read_text()))
    # The pods are replaced, because the name contains a hash of the contents.
    assert container(deployment)["envFrom"] == [{"configMapRef": {"name": given["metadata"]["name"]}}]
    assert given["metadata"]["name"] != before["metadata"]["name"]


def test_only_an_autoscaler_decides_on_replicas_where_there_is_one() -> None:
    for service in SERVICES:
        root = f"overlays/production/{service}"
        (deployment,) = of_kind(root, "Deployment")
        scaled = [one["spec"]["scaleTargetRef"]["name"] for one in of_kind(root, "HorizontalPodAutoscaler")]
        assert scaled == ([] if "replicas" in deployment["spec"] else [service])
        assert scaled or service == "consumer"
