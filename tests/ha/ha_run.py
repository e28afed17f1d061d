"""One `make ha` on ports of its own."""

import itertools
import json
import os
import random
import subprocess
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import psycopg

from deploy.ha.programs import MEMBERS, port_names
from deploy.local.ports import is_free
from tests.infrastructure.waiting import free_port
from tests.integration.deploy_local.local_run import LocalRun

START_SECONDS = 150  # 20 on two cores that do nothing else
STOP_SECONDS = 25  # a bit more than HaStack gives the last of its servers
KEYBOARD = {"user_id": "alice", "lines": [{"product_id": "keyboard", "quantity": 1}], "payment": "now"}


@dataclass
class HaRun(LocalRun):
    """Starts `python -m deploy.ha` in `folder`; later runs in the same folder find what earlier ones left."""

    program: tuple[str, ...] = ("deploy.ha",)
    start_seconds: float = START_SECONDS
    stop_seconds: float = STOP_SECONDS

    def __post_init__(self) -> None:
        super().__post_init__()
        # Other runs of this machine must not meet at the default ports.
        names = port_names(len(MEMBERS))
        chosen = dict(zip(names, quiet_ports(len(names)), strict=True))
        self.folder.mkdir(parents=True)
        remembered = {"kafka_port": free_port(), "ha_ports": chosen}
        (self.folder / "remembered.json").write_text(json.dumps(remembered))

    @property
    def environment(self) -> dict[str, str]:
        # The only variable that every server inherits: `left` knows them by it.
        path = f"{os.environ['PATH']}{os.pathsep}{self.folder}"
        return super().environment | {"PATH": path}

    @property
    def server_ports(self) -> dict[str, int]:
        """Return the ports of etcd, Postgres, Patroni and HAProxy in the last run."""
        found: dict[str, int] = json.loads((self.folder / "remembered.json").read_text())["ha_ports"]
        return found

    def with_stand_ins(self) -> "HaRun":
        """Start the servers and no services: tests of the cluster need none."""
        self.program = ("tests.ha.run_stand_ins", "--no-demo")
        return self

    def standbys(self, number: int) -> "HaRun":
        """Choose the number for the next start."""
        self.settings = {**self.settings, "STANDBYS": str(number)}
        return self

    def buy(self) -> str:
        """Buy a keyboard; return the order's id."""
        order = self._call("/v1/orders", KEYBOARD)
        assert order["status"] == "PAID", order
        return str(order["order_id"])

    def status(self, order_id: str) -> str:
        """Return the status of an order."""
        return str(self._call(f"/v1/orders/{order_id}")["status"])

    def write(self, number: int) -> None:
        """Write a number into the database."""
        with psycopg.connect(self.run_json()["database"], autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept (number int)")
            connection.execute("INSERT INTO kept VALUES (%s)", (number,))

    def kept(self) -> list[int]:
        """Return what was written."""
        with psycopg.connect(self.run_json()["database"]) as connection:
            return [row[0] for row in connection.execute("SELECT number FROM kept ORDER BY number")]

    def patronictl(self, *arguments: str) -> str:
        """Run the command that `make ha` prints, and return its output."""
        line = next(line for line in reversed(self.output().splitlines()) if line.endswith("/patronictl.yml list"))
        command = [*line.split()[:-1], *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def members(self) -> dict[str, str]:
        """Return the role of each member, as patronictl shows it."""
        return {one["Member"]: one["Role"] for one in json.loads(self.patronictl("list", "--format", "json"))}

    def leader(self) -> str:
        """Return the primary."""
        return next(name for name, role in self.members().items() if role == "Leader")

    def peer_urls(self, etcd: str) -> set[str]:
        """Return where the three etcds hear each other, as one of them knows."""
        url = f"http://127.0.0.1:{self.server_ports[etcd]}/v3/cluster/member/list"
        with urllib.request.urlopen(urllib.request.Request(url, b"{}"), timeout=30) as response:
            members = json.load(response)["members"]
        return {url for member in members for url in member["peerURLs"]}

    def followers(self) -> int:
        """Return how many standbys follow the primary."""
        with psycopg.connect(self.run_json()["database"].replace("/shop", "/postgres")) as connection:
            row = connection.execute("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").fetchone()
        assert row is not None
        return int(row[0])

    def _call(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.ports['order']}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            # Postgres writes its title over its environment.
            if Path(process.cwd()).is_relative_to(self.folder):
                return True
            return str(self.folder) in process.environ().get("PATH", "").split(os.pathsep)
        except psutil.Error:
            return False


def quiet_ports(count: int) -> list[int]:
    """Return free ports that no outgoing connection of this machine takes between two runs."""
    candidates = random.sample(range(20_000, 32_000), 10 * count)
    return list(itertools.islice(filter(partial(is_free, "127.0.0.1"), candidates), count))
