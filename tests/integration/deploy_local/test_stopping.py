"""How a run ends, and how the next run handles what an earlier one left."""

import os
import signal
import time

import psutil
import psycopg
import pytest
from aiokafka import AIOKafkaProducer

from tests.infrastructure.waiting import wait_until
from tests.integration.deploy_local.local_run import ELSEWHERE, STOP_SECONDS, LocalRun


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_all_processes_in_order_and_leaves_none(local: LocalRun, number: signal.Signals) -> None:
    local.start()
    assert local.end(number) == 0
    assert not local.left()
    stopped = (local.folder / "stopped").read_text().split()
    assert set(stopped[:2]) == {"order", "relay"}
    assert set(stopped[2:]) == {"product", "coupon", "balance"}
    assert not local.run_json()
    assert "database system is shut down" in (local.folder / "logs" / "postgres.log").read_text()
    assert local.output().endswith("Everything has stopped\n")


def test_ctrl_c_during_the_start_leaves_nothing(local: LocalRun) -> None:
    process = local.begin()
    wait_until(lambda: "Postgres is ready" in local.output(), 30, "Postgres")
    process.send_signal(signal.SIGINT)
    assert process.wait(STOP_SECONDS) == 0
    assert not local.left()


def test_a_service_that_ignores_the_signal_is_killed_within_ten_seconds(local: LocalRun) -> None:
    local.settings = ELSEWHERE | {"STAND_IN_ORDER": "stubborn"}
    local.start()
    begin = time.monotonic()
    assert local.end() == 0
    assert time.monotonic() - begin < STOP_SECONDS
    assert not local.left()
    assert "order did not stop in time and was killed" in local.output()


def test_killed_supervisor_ends_all_its_processes(local: LocalRun) -> None:
    local.start()
    assert local.process is not None
    local.process.kill()
    wait_until(lambda: not local.left(), STOP_SECONDS, "nothing left")
    assert "database system is shut down" in (local.folder / "logs" / "postgres.log").read_text()


def test_run_after_a_kill_of_all_processes_finds_its_data(local: LocalRun) -> None:
    local.start()
    with psycopg.connect(local.run_json()["database"], autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    local.kill_all()
    local.start()
    with psycopg.connect(local.run_json()["database"]) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
    assert local.end() == 0


def test_run_after_a_kill_stops_leftover_processes_and_starts_anew(local: LocalRun) -> None:
    local.start()
    order = psutil.Process(local.pid("order"))
    postgres = psutil.Process(local.pid("postgres"))
    # Paused processes can't handle the signal that the kernel sends at the supervisor's death.
    for process in (order, postgres):
        process.suspend()
    assert local.process is not None
    local.process.kill()
    local.process.wait()
    local.start()
    assert not order.is_running() or order.status() == psutil.STATUS_ZOMBIE
    assert f"Stopped the order that an earlier run left (pid {order.pid})" in local.output()
    assert local.end() == 0


def test_postgres_starts_despite_a_lock_file_with_a_foreign_pid(local: LocalRun) -> None:
    local.start()
    assert local.end() == 0
    # As after a kill and a reboot: another process has the server's pid now.
    (local.folder / "postgres" / "postmaster.pid").write_text(
        f"{os.getpid()}\n{local.folder}/postgres\n1\n54329\n\n127.0.0.1\n 1 1\nready   \n"
    )
    local.start()
    assert local.end() == 0


async def test_watching_ends_with_the_local_run(local: LocalRun) -> None:
    local.start()
    async with AIOKafkaProducer(bootstrap_servers=local.run_json()["kafka"]) as producer:
        await producer.send_and_wait("orders.v1", b"{}", headers=[("ce_subject", b"o-1")])
    watching = local.command("deploy.local.watch_events")
    assert watching.stdout is not None
    assert "o-1" in watching.stdout.readline()
    assert local.end() == 0
    output, _ = watching.communicate(timeout=30)
    assert (watching.returncode, output) == (0, "The local run was stopped\n")


def test_cleaning_removes_the_folder(local: LocalRun) -> None:
    local.settings = ELSEWHERE
    local.start()
    assert local.end() == 0
    clean = local.command("deploy.local.clean")
    output, _ = clean.communicate(timeout=30)
    assert (clean.returncode, output) == (0, "")
    assert not local.folder.exists()


def test_cleaning_refuses_a_folder_that_no_run_has_made(local: LocalRun) -> None:
    local.folder.mkdir()
    (local.folder / "letters.txt").write_text("dear")
    clean = local.command("deploy.local.clean")
    output, _ = clean.communicate(timeout=30)
    assert clean.returncode == 1
    assert str(local.folder) in output
    assert (local.folder / "letters.txt").read_text() == "dear"
