"""A wrong setting or a taken port is told at once, all of it, and ends with a status of its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from shared.exits import Exit
from tests.infrastructure.services import SCHEMAS

REPOSITORY = Path(__file__).parents[2]
END_SECONDS = 30


def start(service: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start a service with nothing in its environment but this, and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("service", SCHEMAS)
def test_every_wrong_setting_is_named_in_a_line_of_its_own(service: str) -> None:
    prefix = service.upper()
    wrong = {
        "CURRENCY": "won",
        f"{prefix}_PORT": "65536",
        f"{prefix}_LOG_LEVEL": "loud",
        f"{prefix}_POOL_SIZE": "0",
        f"{prefix}_CLIENT_TIMEOUT_SECONDS": "inf",
    }
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


def test_a_secret_is_not_printed_with_what_is_wrong_about_it() -> None:
    done = start("product", PRODUCT_DATABASE_URL="mysql://user:hunter2@host/db")
    assert done.returncode == Exit.MISCONFIGURED
    assert "PRODUCT_DATABASE_URL" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_parameter_of_the_database_s_address_that_the_driver_does_not_know_is_named(command: str) -> None:
    url = "postgresql:///shop?host=h1,h2&password=hunter2&connect_timeout=5"
    done = start("product", command, PRODUCT_DATABASE_URL=url)
    (line,) = done.stderr.splitlines()
    assert done.returncode == Exit.MISCONFIGURED
    assert line.startswith("setting PRODUCT_DATABASE_URL: Value error, connect_timeout: is not known")
    assert "hunter2" not in line


def test_a_migration_that_reaches_no_server_is_one_clear_line() -> None:
    done = start("product", "migrate", PRODUCT_DATABASE_URL="postgresql://nobody@127.0.0.1:1,127.0.0.1:1/nowhere")
    (line,) = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1, "")
    assert "not migrated" in line
    assert "127.0.0.1" in line


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        url = "postgresql://nobody@127.0.0.1:1/nowhere"
        done = start("product", PRODUCT_DATABASE_URL=url, PRODUCT_PORT=str(port))
    assert done.returncode == Exit.CANNOT_LISTEN
    assert len(done.stderr.splitlines()) == 1
    assert str(port) in done.stderr


def test_an_unknown_command_is_one_clear_line() -> None:
    done = start("product", "sevre", PRODUCT_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nowhere")
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.MISCONFIGURED, 1)
    assert "migrate" in done.stderr
