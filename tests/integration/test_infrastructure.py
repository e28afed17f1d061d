"""The tests' servers have the properties that the tests expect."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import asyncpg
import psutil
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy.ha.programs import POSTGRES_VERSION_MINIMUM
from shared.process.exits import Exit
from tests.infrastructure import forks
from tests.infrastructure.broker import declare_topic, put_in_place
from tests.infrastructure.databases import Database
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, listens, wait_until


def test_the_server_is_a_postgres_that_is_promised_to_work(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.info.server_version >= POSTGRES_VERSION_MINIMUM * 10_000


async def test_a_migrator_reaches_its_own_schema_and_no_other(database: Database) -> None:
    connection = await asyncpg.connect(database.as_role("coupon_migrator"))
    try:
        await connection.execute("CREATE TABLE coupons.mine (id int)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE TABLE balances.theirs (id int)")
    finally:
        await connection.close()


def test_each_database_is_fresh(database: Database, create_database: Callable[..., Database]) -> None:
    other = create_database(roles=False)
    assert other.url != database.url
    with psycopg.connect(other.url) as connection:
        found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'orders'").fetchone()
    assert found is None


async def first_committed(bootstrap: str, topic: str, *, abort_first: bool) -> bytes | None:
    """Return the first record that a reader of committed records gets, after one or two transactions."""
    declare_topic(bootstrap, topic)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=topic)
    await producer.start()
    try:
        if abort_first:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"aborted", partition=0)
            await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed", partition=0)
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        record = await consumer.getone()
    finally:
        await consumer.stop()
    value: bytes | None = record.value
    return value


async def test_the_broker_commits_transactions(kafka_bootstrap: str) -> None:
    assert await first_committed(kafka_bootstrap, "committed", abort_first=False) == b"committed"


@pytest.mark.real_broker
async def test_the_broker_hides_aborted_transactions(kafka_bootstrap: str) -> None:
    assert await first_committed(kafka_bootstrap, "aborted", abort_first=True) == b"committed"


def test_processes_of_a_killed_run_are_ended(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.mkdir()
    run = """
import os, signal, subprocess, sys
from pathlib import Path
from tests.infrastructure.reaper import Reaper
reaper = Reaper()
server = subprocess.Popen(["sleep", "600"], start_new_session=True)
reaper.folder(Path(sys.argv[1]))
reaper.process(server)
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run(
        [sys.executable, "-c", run, str(left)], stdout=subprocess.PIPE, check=False, text=True, timeout=60
    )
    pid = int(killed.stdout)
    wait_until(lambda: not psutil.pid_exists(pid) and not left.exists(), 30, "the end of what was left")


def test_forks_of_a_program_have_environments_outputs_and_ends_of_their_own(reaper: Reaper) -> None:
    wrong = forks.run("services.product", environment={"PRODUCT_PORT": "x"}, reaper=reaper)
    assert (wrong.returncode, wrong.stdout) == (Exit.MISCONFIGURED, "")
    assert {line.split(":")[0] for line in wrong.stderr.splitlines()} == {
        f"setting PRODUCT_{name}" for name in ("PORT", "DATABASE_URL")
    }
    ports = [free_port(), free_port()]
    nowhere = {"PRODUCT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere", "AUTH_MODE": "open"}
    with TemporaryFile() as output:
        one, other = [
            forks.start(
                "services.product", environment={**nowhere, "PRODUCT_PORT": str(port)}, reaper=reaper, output=output
            )
            for port in ports
        ]
        wait_until(lambda: all(listens("127.0.0.1", port) for port in ports), 30, "both services")
        assert [os.getsid(fork.pid) for fork in (one, other)] == [one.pid, other.pid]
        one.kill()
        assert one.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        other.terminate()
        assert other.wait(10) == Exit.DONE
        output.seek(0)
        assert output.read().count(b'"server.listening"') == 2


def test_two_test_processes_may_fetch_the_same_jars_concurrently(tmp_path: Path) -> None:
    place = tmp_path / "jars"
    for process in ("first", "second"):
        fetched = tmp_path / process
        fetched.mkdir()
        (fetched / "kafka.jar").write_text("the same")
        put_in_place(fetched, place)
    assert [path.name for path in place.iterdir()] == ["kafka.jar"]
