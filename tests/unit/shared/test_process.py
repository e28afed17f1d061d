"""A service as a process: what ends it, with which status; its log can't end it."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.process.exits import Exit
from shared.process.main import STOP_MAX_SECONDS
from shared.process.settings import STOP_DELAY_MAX_SECONDS
from tests.infrastructure.waiting import free_port, wait_until

REPOSITORY = Path(__file__).parents[3]
SECONDS = 20.0
SERVICE = """
import asyncio
import os
import sys
from pathlib import Path

import structlog

from shared.process import main
from shared.process.tasks import background
from shared.http.server import HttpServer
from shared.identity.authenticator import OpenAuthenticator
from shared.refusals import Unavailable
from shared.process.settings import ServiceSettings
from shared.process.stopping import Stop

log = structlog.get_logger()
main.STOP_MAX_SECONDS = float(os.environ.get("STOP_MAX_SECONDS", "5"))


class Settings(ServiceSettings):
    port: int = int(os.environ.get("PORT", "1"))
    database_url: str = "postgresql://nobody@127.0.0.1:1/nowhere"


async def until_stopped(settings, stop):
    print("serving", flush=True)
    await stop.wait()


async def hang(settings, stop):
    print("serving", flush=True)
    await asyncio.Event().wait()


async def stop_slowly(settings, stop):
    await until_stopped(settings, stop)
    print("stopping", flush=True)
    await asyncio.sleep(1)


async def crash(settings, stop):
    raise ValueError("a bug")


async def die():
    raise ValueError("a bug")


async def lose_a_task(settings, stop):
    async with background("mortal", die):
        await stop.wait()


async def lose_a_task_and_hang(settings, stop):
    async with background("mortal", die):
        await HttpServer("x", "x", settings, OpenAuthenticator(), [], {}).run(Stop())


async def listen(settings, stop):
    await HttpServer("x", "x", settings, OpenAuthenticator(), [], {}).run(stop)


async def chat():
    while True:
        log.info("chatter", text="x" * 200)
        await asyncio.sleep(0.0001)


async def log_and_serve(settings, stop):
    async with background("chatter", chat):
        await listen(settings, stop)


async def done(settings):
    return 0


async def unavailable(settings):
    raise Unavailable("nothing answers")


async def wait(settings):
    print("serving", flush=True)
    await asyncio.Event().wait()


serve = globals()[os.environ.get("SERVE", "until_stopped")]
commands = {"done": done, "unavailable": unavailable, "buggy": lambda settings: die(), "wait": wait}
main.main(main.Service("x", Settings, "x", Path(os.environ.get("MIGRATIONS", ".")), serve, commands))
"""


def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start the service or a command of it."""
    return subprocess.Popen(
        [sys.executable, "-c", SERVICE, *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*arguments: str, **environment: str) -> tuple[int, str]:
    """Wait for a process that ends by itself; return its status and output."""
    with start(*arguments, **environment) as process:
        out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out + err


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that prints `serving`, and wait until it does."""
    with start(*arguments, **environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
            yield process
        finally:
            process.kill()


def get(port: int, path: str) -> tuple[int, str]:
    """Return the answer's status and body; status 0 without an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_no_two_ends_share_a_status_and_each_has_its_row_in_the_runbook() -> None:
    table = (REPOSITORY / "docs" / "runbook.md").read_text()
    assert len(set(Exit)) == len(Exit.__members__) == len({status.meaning for status in Exit})
    for exit_ in Exit:
        assert f"| {int(exit_)} | " in table, exit_


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clean_stop_is_0_also_with_a_second_signal(number: signal.Signals) -> None:
    with serving(SERVE="stop_slowly") as process:
        process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(number)
        assert process.wait(SECONDS) == Exit.DONE


@contextmanager
def stopping(port: int) -> Iterator["subprocess.Popen[str]"]:
    """Ask a listening process to stop after a long delay, and wait until it says so."""
    with start(SERVE="listen", PORT=str(port), STOP_DELAY_SECONDS="15") as process:
        try:
            wait_until(lambda: get(port, "/readyz")[0] == 200, SECONDS, "the service")
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: get(port, "/readyz")[0] == 503, SECONDS, "the announced stop")
            yield process
        finally:
            process.kill()


def test_sigterm_makes_the_process_unready_while_it_serves_until_the_next_signal() -> None:
    port = free_port()
    with stopping(port) as process:
        assert '"process":"is stopping"' in get(port, "/readyz")[1]
        assert get(port, "/livez")[0] == 200
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SECONDS / 2)
        assert process.returncode == Exit.DONE
        assert '"event":"process.stopping"' in output


def test_ctrl_c_waits_for_no_balancer() -> None:
    with stopping(free_port()) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS / 2) == Exit.DONE


def test_whole_stop_takes_less_than_25_seconds() -> None:
    assert STOP_DELAY_MAX_SECONDS + STOP_MAX_SECONDS < 25


def test_hanging_stop_is_ended_and_logged() -> None:
    with serving(SERVE="hang", STOP_MAX_SECONDS="0.2") as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == Exit.STOPPED_LATE
        assert "process.stop_overdue" in output


def test_death_of_a_background_task_ends_the_process_with_a_status_of_its_own() -> None:
    status, output = ended(SERVE="lose_a_task")
    assert status == Exit.TASK_DIED
    assert '"event":"task.died"' in output
    assert '"task":"mortal"' in output


def test_livez_reports_a_dead_task_while_the_process_still_runs() -> None:
    port = free_port()
    with start(SERVE="lose_a_task_and_hang", PORT=str(port), STOP_MAX_SECONDS="3") as process:
        wait_until(lambda: get(port, "/livez")[0], SECONDS, "an answer")
        assert get(port, "/livez") == (503, '{"status":"not alive","dead":["mortal"]}')
        assert process.wait(SECONDS) == Exit.TASK_DIED, "the cause comes before the stop that took too long"


def test_bug_while_serving_ends_the_process_with_its_trace_and_status() -> None:
    status, output = ended(SERVE="crash")
    assert status == Exit.CRASHED
    assert '"exc_type":"ValueError"' in output


def test_port_that_is_taken_has_a_status_and_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, output = ended(SERVE="listen", PORT=str(taken.getsockname()[1]))
    assert (status, output.count("\n")) == (Exit.CANNOT_LISTEN, 1)


def test_host_that_is_none_of_this_machine_has_a_status_and_one_line() -> None:
    status, output = ended(SERVE="listen", PORT=str(free_port()), HOST="192.0.2.1")
    assert (status, output.count("\n")) == (Exit.CANNOT_LISTEN, 1)


@pytest.mark.parametrize(
    ("arguments", "environment", "status"),
    [
        (["done"], {}, Exit.DONE),
        (["unavailable"], {}, Exit.FAILED),
        (["buggy"], {}, Exit.CRASHED),
        (["nonsense"], {}, Exit.MISCONFIGURED),
        (["done"], {"LOG_LEVEL": "loud"}, Exit.MISCONFIGURED),
        (["migrate"], {}, Exit.FAILED),  # nothing listens there
        (["migrate"], {"DATABASE_URL": "postgresql://nobody@host.invalid/x"}, Exit.FAILED),
    ],
)
def test_command_ends_with_the_status_of_its_failure(
    arguments: list[str], environment: dict[str, str], status: Exit
) -> None:
    assert ended(*arguments, **environment)[0] == status


def test_ctrl_c_ends_a_command_with_a_status_and_no_trace() -> None:
    with serving("wait") as process:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == Exit.INTERRUPTED
        assert "Traceback" not in output + errors


@pytest.mark.parametrize("fault", ["its reader is gone", "its disk is full", "its reader hangs"])
def test_log_that_can_not_be_written_changes_nothing(fault: str) -> None:
    reading, writing = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    port = free_port()
    if fault == "its reader is gone":
        os.close(reading)
    where = full if fault == "its disk is full" else writing
    command = [sys.executable, "-c", SERVICE]
    environment = {"PATH": os.environ["PATH"], "SERVE": "log_and_serve", "PORT": str(port)}
    with subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=where, stderr=where) as process:
        os.close(full)
        os.close(writing)
        try:

            def lost() -> bool:
                found = [line for line in get(port, "/metrics")[1].splitlines() if line.startswith("log_lines_lost")]
                return any(float(line.split()[1]) > 100 for line in found if not line.startswith("log_lines_lost_c"))

            wait_until(lost, SECONDS, "lost lines in the metrics")
            assert get(port, "/livez")[0] == 200
            assert get(port, "/readyz")[0] == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == Exit.DONE
        finally:
            process.kill()
            if fault != "its reader is gone":
                os.close(reading)


def test_service_without_standard_descriptors_serves_and_stops() -> None:
    port = free_port()
    script = "import os; os.closerange(0, 3)\n" + SERVICE
    environment = {"PATH": os.environ["PATH"], "SERVE": "log_and_serve", "PORT": str(port)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=REPOSITORY) as process:
        try:
            wait_until(lambda: get(port, "/livez")[0] == 200, SECONDS, "the service")
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == Exit.DONE
        finally:
            process.kill()


def test_wrong_setting_keeps_its_status_when_stderr_has_no_reader() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    environment = {"PATH": os.environ["PATH"], "LOG_LEVEL": "loud"}
    command = [sys.executable, "-c", SERVICE]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, stdout=full, stderr=full, check=False)
    os.close(full)
    assert done.returncode == Exit.MISCONFIGURED


def test_signals_change_the_log_level_while_the_process_runs() -> None:
    with serving(LOG_LEVEL="warning", AUTH_MODE="open") as process:
        assert process.stdout is not None
        for number, before, now in ((signal.SIGUSR1, "warning", "debug"), (signal.SIGUSR2, "debug", "warning")):
            process.send_signal(number)
            line = json.loads(process.stdout.readline())
            assert (line["event"], line["before"], line["now"]) == ("log_level.changed", before, now)
        process.terminate()
        assert process.wait(SECONDS) == Exit.DONE
