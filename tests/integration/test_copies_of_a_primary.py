"""A copy of a primary that is being made: it receives WAL as a standby does, and is none before it is complete."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg
import yaml  # type: ignore[import-untyped]

from deploy.ha.programs import PATRONI_YML
from tests.infrastructure.postgres import packaged_binaries, start_binaries, system_binaries
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import wait_until

START_SECONDS = 30
REPORTS = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming' AND reply_time IS NOT NULL"


def test_copy_that_patroni_makes_takes_no_commit_while_no_standby_is_there(reaper: Reaper, tmp_path: Path) -> None:
    binaries = system_binaries() or packaged_binaries()
    url = start_binaries(binaries, reaper)
    patroni = yaml.safe_load(PATRONI_YML.read_text())
    slowly = ("--max-rate=32", "--status-interval=1")
    command = [str(binaries / "pg_basebackup"), "--dbname", url, "--pgdata", str(tmp_path / "copy"), "-X", "stream"]
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")  # Patroni's in strict mode, without a standby
        db.execute("SELECT pg_reload_conf()")
        with subprocess.Popen([*command, *slowly, *_arguments(patroni["postgresql"]["basebackup"])]) as copying:
            try:
                states = wait_until(lambda: db.execute(REPORTS).fetchall(), START_SECONDS, "a report of the copy")
            finally:
                copying.kill()
    assert states == [("async",)]


def _arguments(options: Sequence[str | Mapping[str, str]] | Mapping[str, str]) -> list[str]:
    """Return options of pg_basebackup as Patroni gives them."""
    if isinstance(options, Mapping):
        options = [{name: value} for name, value in options.items()]
    return [
        f"--{option}" if isinstance(option, str) else "".join(f"--{name}={value}" for name, value in option.items())
        for option in options
    ]
