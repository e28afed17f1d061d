"""The order in which replicas in compose are replaced, and what stays if a new one does not become ready."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.upgrade.gateway import PUBLIC, drained
from tests.unit.deploy_upgrade import docker

REPOSITORY = Path(__file__).parents[3]
NGINX = (REPOSITORY / "deploy" / "gateway" / "nginx.conf").read_text()
SECONDS = 60


class Engine:
    """A folder with the programs that stand in for Docker's, and their state."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / "state.json"
        for name in ("docker", "docker-compose"):
            program = folder / name
            program.write_text(f"#!{sys.executable} -S\n" + Path(docker.__file__).read_text())
            program.chmod(0o755)
        old = {name: {"service": "order", "ready": True} for name in ("old-1", "old-2")}
        gateway = {"service": "gateway", "ready": True}
        self.change(made=0, log=[], new_are_ready=True, migration_fails=False, containers=old | {"gateway-1": gateway})

    def change(self, **changes: Any) -> None:
        """Change the state."""
        known = json.loads(self._state.read_text()) if self._state.exists() else {}
        self._state.write_text(json.dumps(known | changes))

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "deploy.upgrade", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PATH": f"{self._folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    @property
    def state(self) -> Mapping[str, Any]:
        """Return the state."""
        found: Mapping[str, Any] = json.loads(self._state.read_text())
        return found

    def replicas(self) -> list[str]:
        """Return the names of the replicas."""
        return [name for name, one in self.state["containers"].items() if one["service"] == "order"]

    def acts(self) -> list[str]:
        """Return what was done to containers, each as a verb and a name."""
        words = [line.split() for line in self.state["log"]]
        kinds = {"run": "migrate", "up": "start", "stop": "stop", "rm": "remove"}
        return [f"{kinds[verb]} {line[-1]}" for line in words for verb in line if verb in kinds]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """Two old replicas, and a gateway."""
    return Engine(tmp_path)


def test_replicas_are_replaced_one_at_a_time_after_the_new_one_is_ready(engine: Engine) -> None:
    ended = engine.run("order")
    assert ended.returncode == 0, ended.stderr
    assert engine.acts() == [
        "migrate order-migrate",
        *("start order", "stop old-1", "remove old-1"),
        *("start order", "stop old-2", "remove old-2"),
    ]
    assert engine.replicas() == ["new-1", "new-2"]
    scales = [line for line in engine.state["log"] if "--scale order=3" in line]
    assert len(scales) == 2
    assert all("--no-deps --no-recreate" in line for line in scales)


def test_new_replica_that_does_not_become_ready_is_removed_and_the_old_ones_stay(engine: Engine) -> None:
    engine.change(new_are_ready=False)
    ended = engine.run("order", "--ready-seconds", "0.1")
    assert ended.returncode == 1
    assert "did not become ready and is removed; 2 old ones still run" in ended.stderr
    assert engine.replicas() == ["old-1", "old-2"]
    assert engine.acts() == ["migrate order-migrate", "start order", "stop new-1", "remove new-1"]


def test_migration_that_fails_replaces_nothing(engine: Engine) -> None:
    engine.change(migration_fails=True)
    ended = engine.run("order")
    assert (ended.returncode, engine.replicas()) == (1, ["old-1", "old-2"])
    assert "the migration failed" in ended.stderr


def test_replica_that_has_ended_is_to_be_removed_first(engine: Engine) -> None:
    ended = {"ended-1": {"service": "order", "ready": False, "ended": True}}
    engine.change(containers=engine.state["containers"] | ended)
    run = engine.run("order")
    assert (run.returncode, engine.acts()) == (1, [])
    assert "docker rm ended-1" in run.stderr


def test_service_that_does_not_run_is_not_started(engine: Engine) -> None:
    ended = engine.run("coupon")
    assert (ended.returncode, engine.acts()) == (1, [])
    assert "no replica of coupon runs" in ended.stderr


def test_drained_replica_is_not_among_the_addresses_that_the_gateway_uses(engine: Engine) -> None:
    assert engine.run("order", "--drain", "old-1").returncode == 0
    written = "\n".join(engine.state["log"])
    assert "server address-of-old-2:8001;" in written
    assert "address-of-old-1" not in written
    assert engine.state["log"][-1] == "docker exec gateway-1 nginx -s reload"
    assert engine.run("order", "--undrain").returncode == 0
    assert engine.state["log"][-3].endswith("rm -f /tmp/drained/order.*")


@pytest.mark.parametrize("name", ["old", "other"])
def test_what_is_not_one_of_several_replicas_is_not_drained(engine: Engine, name: str) -> None:
    ended = engine.run("order", "--drain", name)
    assert (ended.returncode, engine.state["log"]) == (1, [])


def test_addresses_in_use_replace_those_of_the_same_path_in_the_gateway() -> None:
    for service, (path, port) in PUBLIC.items():
        assert f"    ~^{path}".ljust(28) + f"http://{service}:{port};" in NGINX
        servers = f"  server 10.0.0.1:{port};\n  server 10.0.0.2:{port};\n"
        assert drained(service, ["10.0.0.1", "10.0.0.2"]) == {
            f"{service}.upstream": f"upstream only-{service} {{\n{servers}}}\n",
            f"{service}.map": f"~^{path} http://only-{service};\n",
        }
