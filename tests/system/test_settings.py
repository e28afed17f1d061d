"""A service reports all wrong settings or a taken port before it starts, and ends with a specific status."""

import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from shared.process.exits import Exit
from tests.infrastructure import forks
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import SCHEMAS

Start = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def start(reaper: Reaper) -> Start:
    """Starts a service with only this environment, and waits for its end."""

    def run(service: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        only = {"PATH": os.environ["PATH"], **environment}
        return forks.run(f"services.{service}", *arguments, environment=only, reaper=reaper)

    return run


@pytest.mark.parametrize("service", SCHEMAS)
def test_every_wrong_setting_is_named_in_a_line_of_its_own(start: Start, service: str) -> None:
    prefix = service.upper()
    wrong = {
        f"{prefix}_PORT": "65536",
        f"{prefix}_LOG_LEVEL": "loud",
        f"{prefix}_POOL_SIZE": "0",
        f"{prefix}_CLIENT_TIMEOUT_SECONDS": "inf",
    }
    if service != "relay":
        wrong |= {"CURRENCY": "won"}
    if service == "order":
        wrong |= {
            "ORDER_LEASE_SECONDS": "nan",
            "ORDER_BALANCE_URL": "balance:8004",
            "ORDER_EXPIRY_INTERVAL_SECONDS": "0",
        }
    if service == "relay":
        wrong |= {"KAFKA_BOOTSTRAP_SERVERS": "kafka", "RELAY_LEASE_SECONDS": "-1"}
    done = start(service, **wrong)
    lines = done.stderr.splitlines()
    assert done.returncode == Exit.MISCONFIGURED
    assert sorted(line.split(":")[0] for line in lines) == sorted(
        f"setting {name}" for name in [*wrong, f"{prefix}_DATABASE_URL"]
    )
    assert done.stdout == ""


def test_error_of_a_secret_setting_does_not_print_it(start: Start) -> None:
    done = start("product", PRODUCT_DATABASE_URL="mysql://user:hunter2@host/db")
    assert done.returncode == Exit.MISCONFIGURED
    assert "PRODUCT_DATABASE_URL" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_unknown_parameter_of_the_database_address_is_named(start: Start, command: str) -> None:
    url = "postgresql:///shop?host=h1,h2&password=hunter2&connect_timeout=5"
    done = start("product", command, PRODUCT_DATABASE_URL=url)
    (line,) = done.stderr.splitlines()
    assert done.returncode == Exit.MISCONFIGURED
    assert line.startswith("setting PRODUCT_DATABASE_URL: Value error, connect_timeout: is not known")
    assert "hunter2" not in line


def test_a_migration_that_reaches_no_server_is_one_clear_line(start: Start) -> None:
    done = start("product", "migrate", PRODUCT_DATABASE_URL="postgresql://nobody@127.0.0.1:1,127.0.0.1:1/nowhere")
    (line,) = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, "")
    assert "schema.migration_failed" in line
    assert "127.0.0.1" in line


def test_a_taken_port_is_one_clear_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        url = "postgresql://nobody@127.0.0.1:1/nowhere"
        done = start("product", PRODUCT_DATABASE_URL=url, PRODUCT_PORT=str(port), AUTH_MODE="open")
    assert done.returncode == Exit.CANNOT_LISTEN
    assert len(done.stderr.splitlines()) == 1
    assert str(port) in done.stderr


def test_an_unknown_command_is_one_clear_line(start: Start) -> None:
    done = start("product", "sevre", PRODUCT_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nowhere")
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.MISCONFIGURED, 1)
    assert "migrate" in done.stderr


@pytest.mark.parametrize("service", SCHEMAS)
@pytest.mark.parametrize("mode", [{}, {"AUTH_MODE": "open"}], ids=["none", "open"])
def test_service_that_asks_nobody_who_they_are_does_not_start(start: Start, service: str, mode: dict[str, str]) -> None:
    prefix = service.upper()
    needed = {
        f"{prefix}_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere",
        f"{prefix}_PORT": "1",
        f"{prefix}_HOST": "0.0.0.0",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        **{f"ORDER_{other}_URL": "http://127.0.0.1:1" for other in ("PRODUCT", "COUPON", "BALANCE")},
    }
    done = start(service, **needed, **mode)
    assert done.returncode == Exit.MISCONFIGURED, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("setting AUTH_MODE: ")
