"""An order service that can't write its log survives a database outage, and keeps its lease and its answers."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest

from shared.process.exits import Exit
from tests.infrastructure.databases import Database
from tests.infrastructure.services import migrate_service
from tests.infrastructure.waiting import free_port, wait_until

REPOSITORY = Path(__file__).parents[2]
SECONDS = 20.0
ORDER = {"user_id": "alice", "lines": [{"product_id": "p", "quantity": 1}], "payment": "now"}


def ask(port: int, path: str, body: object = None) -> tuple[int, str]:
    """Return the answer's status and body; status 0 without an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def is_lost(port: int) -> bool:
    """Return whether log lines were lost."""
    lines = [line for line in ask(port, "/metrics")[1].splitlines() if line.startswith("log_lines_lost_total ")]
    return bool(lines) and float(lines[0].split()[1]) > 0


@pytest.mark.parametrize("log", ["a pipe without a reader", "a full disk"])
def test_service_outlives_its_log_and_its_database(database: Database, log: str) -> None:
    url = migrate_service("order", database)
    name, port = url.rpartition("/")[2], free_port()
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    environment = {
        "PATH": os.environ["PATH"],
        "ORDER_DATABASE_URL": url,
        "AUTH_MODE": "open",
        "ORDER_PORT": str(port),
        "ORDER_LEASE_SECONDS": "1",
        "ORDER_SWEEP_INTERVAL_SECONDS": "0.2",
        "ORDER_REQUEST_DEADLINE_SECONDS": "1",
        "ORDER_LOG_LEVEL": "debug",
        "ORDER_ACCESS_LOG": "all",
    }
    where = writing if log == "a pipe without a reader" else full
    command = [sys.executable, "-m", "services.order"]
    elsewhere = psycopg.conninfo.make_conninfo(database.url, dbname="postgres")
    with (
        subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=where, stderr=where) as service,
        psycopg.connect(elsewhere, autocommit=True) as operator,
    ):
        os.close(writing)
        os.close(full)
        try:
            wait_until(lambda: ask(port, "/readyz")[0] == 200, SECONDS, "the service")
            operator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            operator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            wait_until(lambda: "no lease" in ask(port, "/readyz")[1], SECONDS, "the end of the lease")
            assert ask(port, "/v1/orders", ORDER)[0] == 503
            assert ask(port, "/livez")[0] == 200
            operator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            wait_until(lambda: ask(port, "/readyz")[0] == 200, SECONDS, "the lease")
            assert ask(port, "/v1/orders", ORDER)[0] == 202, "no participant answers"
            assert is_lost(port)
            service.terminate()
            assert service.wait(SECONDS) == Exit.DONE
        finally:
            service.kill()
            operator.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
