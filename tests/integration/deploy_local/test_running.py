"""Promises while everything runs. The tests share one run."""

import os
import signal
import urllib.request
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from deploy.local.configuration import SERVICES
from tests.infrastructure.waiting import wait_until
from tests.integration.deploy_local.local_run import LocalRun

SECONDS = 30


def role_dsn(run: LocalRun, service: str) -> str:
    """Return the service's environment."""
    environ = Path(f"/proc/{run.pid(service)}/environ").read_text().split("\0")
    name = f"{service.upper()}_DATABASE_URL="
    return next(entry.removeprefix(name) for entry in environ if entry.startswith(name))


def test_run_json_names_the_kafka_the_database_and_every_service(running: LocalRun) -> None:
    run = running.run_json()
    assert set(run) == {"kafka", "database", "issuer", "console", "playground", "services"}
    assert run["console"] == {"url": f"http://127.0.0.1:{running.console_port}", "pid": running.pid("console")}
    assert run["playground"] == f"http://127.0.0.1:{running.playground_port}"
    assert run["issuer"] is None
    for service in SERVICES:
        entry = run["services"][service]
        assert entry["url"] == f"http://127.0.0.1:{running.ports[service]}"
        assert entry["pid"] == running.pid(service)
        assert ("admin_url" in entry) is (service in ("order", "relay"))
        with urllib.request.urlopen(f"{entry['url']}/readyz", timeout=5) as response:
            assert response.status == 200


def test_the_database_keeps_what_it_has_confirmed(running: LocalRun) -> None:
    with psycopg.connect(running.run_json()["database"]) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            row = connection.execute("SELECT current_setting(%s)", (setting,)).fetchone()
            assert row == ("on",)


def test_each_service_runs_with_its_own_login_that_creates_nothing(running: LocalRun) -> None:
    for service in SERVICES:
        with psycopg.connect(role_dsn(running, service), autocommit=True) as connection:
            assert connection.info.user == f"{service}_service_a"
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("CREATE TEMPORARY TABLE mine (id int)")


def test_the_database_asks_for_a_password(running: LocalRun) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(running.run_json()["database"], password="wrong")


def test_a_second_run_in_the_same_folder_is_refused_in_one_line(running: LocalRun) -> None:
    assert running.process is not None
    second = running.command("tests.integration.deploy_local.run_stand_ins")
    output, _ = second.communicate(timeout=SECONDS)
    assert second.returncode == 2
    assert output == f"`make run` already runs in this checkout (pid {running.process.pid}); stop it first\n"


def test_cleaning_is_refused_while_it_runs(running: LocalRun) -> None:
    clean = running.command("deploy.local.clean")
    output, _ = clean.communicate(timeout=SECONDS)
    assert clean.returncode == 1
    assert "still runs here" in output


def test_a_service_that_dies_is_started_again_and_run_json_follows(running: LocalRun) -> None:
    killed = running.pid("coupon")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: running.run_json()["services"]["coupon"]["pid"] not in (killed, None), SECONDS, "another coupon")
    wait_until(lambda: "coupon runs again" in running.output(), SECONDS, "word of it")
    assert "coupon was killed by SIGKILL; starting it again in 0.25 s" in running.output()


def test_a_database_that_dies_comes_back_where_it_was_with_its_data(running: LocalRun) -> None:
    dsn = running.run_json()["database"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    os.kill(running.pid("postgres"), signal.SIGKILL)
    wait_until(lambda: "postgres runs again" in running.output(), SECONDS, "postgres again")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


async def test_a_reader_of_committed_records_sees_those_of_a_transaction(running: LocalRun) -> None:
    kafka = running.run_json()["kafka"]
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id="test")
    consumer = AIOKafkaConsumer(
        "orders.v1", bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    async with producer:
        for number in range(3):
            async with producer.transaction():
                await producer.send_and_wait("orders.v1", b"{}", key=b"%d" % number)
    async with consumer:
        keys = {(await consumer.getone()).key for _ in range(3)}
    assert keys == {b"0", b"1", b"2"}


async def test_watching_prints_events_in_one_line_each_and_ends_quietly(running: LocalRun) -> None:
    headers = [("ce_type", b"order.paid.v1"), ("ce_subject", b"o-1"), ("ce_sequence", b"00000000000000000001")]
    async with AIOKafkaProducer(bootstrap_servers=running.run_json()["kafka"]) as producer:
        await producer.send_and_wait("orders.v1", b'{"status":"PAID"}', key=b"o-1", headers=headers)
    watching = running.command("deploy.local.watch_events")
    assert watching.stdout is not None
    line = next(line for line in watching.stdout if "o-1" in line)
    assert line == "?  order.paid.v1       o-1  #1  status=PAID\n"
    watching.send_signal(signal.SIGINT)
    output, _ = watching.communicate(timeout=SECONDS)
    assert "Traceback" not in output
    assert watching.returncode == 0


def test_dead_broker_returns_at_its_address_and_the_relay_is_restarted(running: LocalRun) -> None:
    before = running.run_json()
    assert running.calls("relay") == ["migrate", "bootstrap", "serve"]
    os.kill(running.pid("broker"), signal.SIGKILL)
    wait_until(lambda: "broker runs again" in running.output(), SECONDS, "broker again")
    assert running.calls("relay") == ["migrate", "bootstrap", "serve", "bootstrap", "serve"]
    after = running.run_json()
    assert after["kafka"] == before["kafka"]
    assert after["services"]["relay"]["pid"] != before["services"]["relay"]["pid"]
    assert after["services"]["order"] == before["services"]["order"]
