"""The operators' image works beside the containers: it shares the network and the files of one of them."""

import json
from collections.abc import Mapping
from functools import partial

import pytest

from tests.containers.engine import Platform, run

# As docs/runbook.md has it, but confined, and with the commands on standard input.
CONFINED = ["docker", "run", "--rm", "--interactive", "--read-only", "--cap-drop", "ALL"]
SHELL = ["bash", "-euo", "pipefail", "-s"]


@pytest.fixture(params=["order", "relay"])
def service(request: pytest.FixtureRequest) -> str:
    """The service beside which the operator works."""
    return str(request.param)


def operate(images: Mapping[str, str], platform: Platform, service: str, commands: str) -> str:
    """Run commands beside a replica of a service, with its settings; return what they print."""
    replica = platform.replicas(service)[0]
    prefixes = (f"{service.upper()}_", "AUTH_", "KAFKA_")
    settings = [f"--env={one}" for one in replica["Config"]["Env"] if one.startswith(prefixes)]
    beside = ["--network", f"container:{replica['Id']}", "--volumes-from", f"{replica['Id']}:ro"]
    return run([*CONFINED, *beside, *settings, images["ops"], *SHELL], input=commands)


def test_operators_tools_and_commands_work_beside_a_service(
    images: Mapping[str, str], platform: Platform, service: str
) -> None:
    do = partial(operate, images, platform, service)
    port = {"order": 8101, "relay": 8105}[service]
    ready = json.loads(do(f"curl --silent --fail http://{service}:{port}/readyz | jq --compact-output ."))
    assert ready["status"] == "ready"
    login = do('psql "$(cat /database/address)" --tuples-only --no-align --command "SELECT current_user"')
    assert login.strip() == f"{service}_service_a"
    assert json.loads(do(f"python -m services.{service}.admin list --json")) == []
    assert "_ORDERCTL_COMPLETE" in do("orderctl completion bash")
    assert "FROM_ORDER_DATABASE_URL" in do("python -m deploy.slots --help")


def test_operators_audit_reaches_every_participant(images: Mapping[str, str], platform: Platform) -> None:
    audit = "python -m services.order.admin audit --json || test $? -eq 4"
    assert "clean" in json.loads(operate(images, platform, "order", audit))
