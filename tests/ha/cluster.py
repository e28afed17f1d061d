"""A cluster on which operators work: members and etcds are stopped, replaced, added and removed."""

import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psycopg

from deploy.ha.programs import ENVIRONMENT, ETCDS, MEMBERS, PATRONI_YML
from deploy.local.processes import processes_in
from tests.infrastructure.own_ha import STOP_SECONDS, OwnHa
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import wait_until
from tests.runbook.shell import Shell

CONNECT_SECONDS = 2
WAL_KEPT_SEGMENTS = 8  # Patroni's wal_keep_size, 128 MB
DROP_SECONDS = 30


class Cluster(OwnHa):
    """Two members, of which each has a patroni.yml of its own; a third one may be added."""

    def __init__(self, reaper: Reaper, folder: Path) -> None:
        super().__init__(reaper, folder)
        for member in MEMBERS:
            shutil.copy(PATRONI_YML, self.configuration(member))

    def configuration(self, member: str) -> Path:
        """Return the member's patroni.yml."""
        return self._folder / f"{member}.yml"

    def shell(self, folder: Path, member: str) -> Shell:
        """Return where an operator works on a member."""
        patroni = self.layout.patroni(member).environment
        variables = {name: value for name, value in patroni.items() if name.startswith("PATRONI_")} | {
            "PATRONICTL_CONFIG_FILE": str(self.configuration(member)),
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": ",".join(map(self.layout.client_url, ETCDS)),
        }
        folder.mkdir()
        shell = Shell(folder, variables, "python3")
        (folder / "programs" / "patronictl").symlink_to(ENVIRONMENT / "bin" / "patronictl")
        return shell

    def start_member(self, member: str) -> None:
        """Start its Patroni with its own file."""
        program = self.layout.patroni(member)
        self._spawn(replace(program, command=(program.command[0], str(self.configuration(member)))), self._account)

    def stop_member(self, member: str) -> None:
        """Stop its Patroni, which stops its Postgres."""
        self._running[member].send_signal(signal.SIGTERM)
        self._running[member].wait(STOP_SECONDS)
        wait_until(lambda: not processes_in(self.layout.data(member)), STOP_SECONDS, f"the end of {member}")

    def resize(self, *members: str) -> None:
        """Have the folders of these members; HAProxy learns of them when it is restarted."""
        self.layout = replace(self.layout, members=members)
        self.layout.prepare(self._account, print)

    def forget(self, member: str) -> None:
        """Delete a member's data."""
        shutil.rmtree(self.layout.data(member))

    def replace_etcd(self, name: str) -> None:
        """Start an etcd that has been added again, without its data."""
        shutil.rmtree(self.layout.folder / name)
        program = self.layout.etcd(name)
        environment: Mapping[str, str] = {**program.environment, "ETCD_INITIAL_CLUSTER_STATE": "existing"}
        self._spawn(replace(program, environment=environment))

    def log(self, member: str) -> str:
        """Return what a member's Patroni and Postgres have logged."""
        return (self._folder / f"{member}.log").read_text()

    def connect(self) -> psycopg.Connection:
        """Return a connection to the primary, through HAProxy."""
        return psycopg.connect(self.url, autocommit=True, connect_timeout=CONNECT_SECONDS)

    def drop_wal(self, member: str) -> None:
        """Have the primary drop the WAL that a stopped member lacks, as if it was away for longer than its slot."""
        slot = member.replace("-", "_")
        with self.connect() as connection:
            row = connection.execute("SELECT pg_walfile_name(pg_current_wal_lsn())").fetchone()
            for _ in range(2 * WAL_KEPT_SEGMENTS):
                connection.execute("SELECT pg_logical_emit_message(true, 'a test', 'of a full segment')")
                connection.execute("SELECT pg_switch_wal()")

            def is_dropped() -> bool:
                # Patroni makes the slot again, with what is there by then; another standby may hold WAL for a moment.
                drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s"
                connection.execute(drop, (slot,))
                connection.execute("CHECKPOINT")
                return connection.execute("SELECT FROM pg_ls_waldir() WHERE name = %s", row).fetchone() is None

            wait_until(is_dropped, DROP_SECONDS, "the end of old WAL")


def missing_client() -> str | None:
    """Return why etcd can't be asked here."""
    return None if shutil.which("etcdctl", path=os.environ["PATH"]) else "etcdctl is not installed (etcd-client)"
