"""The reference consumer can be copied: its folder alone runs in an empty project that has its requirements."""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.infrastructure.databases import Database
from tests.infrastructure.imports import imported_by
from tests.infrastructure.pipeline import Pipeline
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_port
from tests.integration.consumer.platform import an_order
from tests.integration.consumer.test_dead_letters import send

FOLDER = Path(__file__).parents[3] / "deploy" / "consumer"
SETTINGS = {
    "CONSUMER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "CONSUMER_RELAY_URL": "http://127.0.0.1:1",
}


class Copy:
    """The folder in an empty project. Python finds there, and in the installed packages, all that it imports."""

    def __init__(self, project: Path, reaper: Reaper) -> None:
        self.folder = project / "consumer"
        self._reaper = reaper
        shutil.copytree(FOLDER, self.folder, ignore=shutil.ignore_patterns("__pycache__"))

    def start(self, *arguments: str, **settings: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder.parent,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.folder.parent), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reaper.process(process)
        return process

    def run(self, *arguments: str, **settings: str) -> tuple[int, str]:
        """Run to the end; its exit status and what it printed."""
        process = self.start(*arguments, **settings)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output.decode()


@pytest.fixture
def copy(tmp_path: Path, reaper: Reaper) -> Copy:
    return Copy(tmp_path, reaper)


async def test_copied_folder_stores_an_event(
    copy: Copy, pipeline: Pipeline, platform_database: Database, source: random.Random
) -> None:
    settings = {
        **SETTINGS,
        "CONSUMER_DATABASE_URL": platform_database.url,
        "CONSUMER_TOPIC": pipeline.topic,
        "CONSUMER_PORT": str(free_port()),
        "KAFKA_BOOTSTRAP_SERVERS": pipeline.kafka,
    }
    assert copy.run("-c", "import shared")[0] == 1, "nothing else of this repository can be imported"
    assert copy.run("-m", "consumer", "--help")[0] == 0
    every = sorted(file.stem for file in (FOLDER / "migrations").glob("*.sql"))
    for applied in (f'"applied": {json.dumps(every)}', '"applied": []'):
        status, output = copy.run("-m", "consumer", "migrate", **settings)
        assert (status, applied in output) == (0, True), output
    if pipeline.real_broker:  # the embedded one creates every topic
        admin = AdminClient({"bootstrap.servers": pipeline.kafka, "log_level": 0})
        await asyncio.to_thread(admin.create_topics([NewTopic(pipeline.topic, 1, 1)])[pipeline.topic].result, 10)
    (event,) = an_order(source, ("paid",))
    await send(pipeline, event)
    consumer = copy.start("-m", "consumer", **settings)
    db = await asyncpg.connect(platform_database.url)
    stored = "SELECT count(*) FROM platform.orders WHERE order_id = $1 AND status = 'PAID'"

    async def is_stored() -> bool:
        assert consumer.poll() is None, consumer.communicate()
        return bool(await db.fetchval(stored, event.order_id))

    try:
        await eventually(is_stored, 40, "the event in the copied consumer's database")
    finally:
        await db.close()
    consumer.send_signal(signal.SIGTERM)
    log, _ = await asyncio.to_thread(consumer.communicate, timeout=20)
    assert consumer.returncode == 0, log


def test_requirements_name_every_package_that_the_code_imports() -> None:
    modules = imported_by(FOLDER)
    # OpenTelemetry's packages share a module, so it has several.
    packages = {name: {one.replace("_", "-") for one in packages_distributions()[name]} for name in modules}
    required = set((FOLDER / "requirements.in").read_text().split())
    assert [name for name in modules if not required & packages[name]] == []
    assert required <= set().union(*packages.values())


def test_the_dockerfile_copies_from_its_own_folder_only() -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+)", (FOLDER / "Dockerfile").read_text(), re.M)
    assert copied == ["requirements.lock", "."]


@pytest.mark.parametrize(
    ("arguments", "changes", "status", "message"),
    [
        ((), {"CONSUMER_DATABASE_URL": ""}, 2, "setting CONSUMER_DATABASE_URL: "),
        ((), {"CONSUMER_POOL_SIZE": "1_0"}, 2, "setting CONSUMER_POOL_SIZE: "),
        ((), {"CONSUMER_DATABASE_URL": "postgresql://nobody@127.0.0.1:x/x"}, 2, "setting CONSUMER_DATABASE_URL: "),
        (("nothing",), {}, 2, "invalid choice: 'nothing'"),
        (("migrate", "more"), {}, 2, "unrecognized arguments: more"),
        (("migrate",), {}, 1, "command.failed"),
        (("retry",), {}, 1, "command.failed"),
    ],
)
def test_command_that_fails_ends_with_its_status(
    copy: Copy, arguments: tuple[str, ...], changes: dict[str, str], status: int, message: str
) -> None:
    found, output = copy.run("-m", "consumer", *arguments, **{**SETTINGS, **changes})
    assert (found, message in output) == (status, True), output


def test_port_in_use_ends_the_process_with_its_status(copy: Copy) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, output = copy.run("-m", "consumer", **SETTINGS, CONSUMER_PORT=port)
    assert (status, f"cannot listen on 127.0.0.1:{port}" in output) == (15, True), output


def test_migration_with_a_bug_ends_with_its_status_and_applies_nothing(copy: Copy, platform_database: Database) -> None:
    (copy.folder / "migrations" / "0002.bug.sql").write_text("CREATE TABLE platform.half (id int); SELECT 1 / 0")
    settings = {**SETTINGS, "CONSUMER_DATABASE_URL": platform_database.url}
    status, output = copy.run("-m", "consumer", "migrate", **settings)
    assert (status, "division by zero" in output) == (13, True), output
    (copy.folder / "migrations" / "0002.bug.sql").write_text("CREATE TABLE platform.half (id int)")
    status, output = copy.run("-m", "consumer", "migrate", **settings)
    assert (status, "0002.bug" in output) == (0, True), output
