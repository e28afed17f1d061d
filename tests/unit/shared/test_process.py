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
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.process.exits import Exit
from shared.process.main import STOP_MAX_SECONDS
from shared.process.settings import STOP_DELAY_MAX_SECONDS
from tests.infrastructure import forks
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, wait_until

REPOSITORY = Path(__file__).parents[3]
SECONDS = 20.0
PROGRAM = "tests.unit.shared.a_service"


class Process:
    """The service as a fork, with pipes for its output."""

    def __init__(self, reaper: Reaper, *arguments: str, **environment: str) -> None:
        (out, writing_out), (err, writing_err) = os.pipe(), os.pipe()
        with open(writing_out, "wb") as output, open(writing_err, "wb") as errors:
            self.fork = forks.start(
                PROGRAM,
                *arguments,
                environment={"PATH": os.environ["PATH"], **environment},
                reaper=reaper,
                output=output,
                errors=errors,
            )
        self.out, self.err = os.fdopen(out), os.fdopen(err)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.fork.kill()
        self.fork.wait()
        self.out.close()
        self.err.close()

    def output(self) -> str:
        """Return what is not read yet, once the process has ended."""
        self.fork.wait(SECONDS)
        return self.out.read() + self.err.read()


@dataclass(frozen=True)
class Service:
    """Starts the service, or a command of it."""

    reaper: Reaper

    def start(self, *arguments: str, **environment: str) -> Process:
        """Start it."""
        return Process(self.reaper, *arguments, **environment)

    def ended(self, *arguments: str, **environment: str) -> tuple[int | None, str]:
        """Wait for a process that ends by itself; return its status and output."""
        with self.start(*arguments, **environment) as process:
            output = process.output()
        return process.fork.returncode, output

    @contextmanager
    def serving(self, *arguments: str, **environment: str) -> Iterator[Process]:
        """Start a process that prints `serving`, and wait until it does."""
        with self.start(*arguments, **environment) as process:
            assert process.out.readline() == "serving\n"
            yield process

    @contextmanager
    def stopping(self, port: int) -> Iterator[Process]:
        """Ask a listening process to stop after a long delay, and wait until it says so."""
        with self.start(SERVE="listen", PORT=str(port), STOP_DELAY_SECONDS="15") as process:
            wait_until(lambda: get(port, "/readyz")[0] == 200, SECONDS, "the service")
            process.fork.terminate()
            wait_until(lambda: get(port, "/readyz")[0] == 503, SECONDS, "the announced stop")
            yield process


@pytest.fixture
def service(reaper: Reaper) -> Service:
    return Service(reaper)


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
def test_clean_stop_is_0_also_with_a_second_signal(service: Service, number: signal.Signals) -> None:
    with service.serving(SERVE="stop_slowly") as process:
        process.fork.send_signal(number)
        assert process.out.readline() == "stopping\n"
        process.fork.send_signal(number)
        assert process.fork.wait(SECONDS) == Exit.DONE


def test_sigterm_makes_the_process_unready_while_it_serves_until_the_next_signal(service: Service) -> None:
    port = free_port()
    with service.stopping(port) as process:
        assert '"process":"is stopping"' in get(port, "/readyz")[1]
        assert get(port, "/livez")[0] == 200
        process.fork.send_signal(signal.SIGTERM)
        output = process.output()
        assert process.fork.returncode == Exit.DONE
        assert '"event":"process.stopping"' in output


def test_ctrl_c_waits_for_no_balancer(service: Service) -> None:
    with service.stopping(free_port()) as process:
        process.fork.send_signal(signal.SIGINT)
        assert process.fork.wait(SECONDS / 2) == Exit.DONE


def test_whole_stop_takes_less_than_25_seconds() -> None:
    assert STOP_DELAY_MAX_SECONDS + STOP_MAX_SECONDS < 25


def test_hanging_stop_is_ended_and_logged(service: Service) -> None:
    with service.serving(SERVE="hang", STOP_MAX_SECONDS="0.2") as process:
        process.fork.send_signal(signal.SIGTERM)
        output = process.output()
        assert process.fork.returncode == Exit.STOPPED_LATE
        assert "process.stop_overdue" in output


def test_death_of_a_background_task_ends_the_process_with_a_status_of_its_own(service: Service) -> None:
    status, output = service.ended(SERVE="lose_a_task")
    assert status == Exit.TASK_DIED
    assert '"event":"task.died"' in output
    assert '"task":"mortal"' in output


def test_livez_reports_a_dead_task_while_the_process_still_runs(service: Service) -> None:
    port = free_port()
    with service.start(SERVE="lose_a_task_and_hang", PORT=str(port), STOP_MAX_SECONDS="3") as process:
        wait_until(lambda: get(port, "/livez")[0], SECONDS, "an answer")
        assert get(port, "/livez") == (503, '{"status":"not alive","dead":["mortal"]}')
        assert process.fork.wait(SECONDS) == Exit.TASK_DIED, "the cause comes before the stop that took too long"


def test_bug_while_serving_ends_the_process_with_its_trace_and_status(service: Service) -> None:
    status, output = service.ended(SERVE="crash")
    assert status == Exit.CRASHED
    assert '"exc_type":"ValueError"' in output


def test_port_that_is_taken_has_a_status_and_one_line(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, output = service.ended(SERVE="listen", PORT=str(taken.getsockname()[1]))
    assert (status, output.count("\n")) == (Exit.CANNOT_LISTEN, 1)


def test_host_that_is_none_of_this_machine_has_a_status_and_one_line(service: Service) -> None:
    status, output = service.ended(SERVE="listen", PORT=str(free_port()), HOST="192.0.2.1")
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
    service: Service, arguments: list[str], environment: dict[str, str], status: Exit
) -> None:
    assert service.ended(*arguments, **environment)[0] == status


def test_ctrl_c_ends_a_command_with_a_status_and_no_trace(service: Service) -> None:
    with service.serving("wait") as process:
        process.fork.send_signal(signal.SIGINT)
        output = process.output()
        assert process.fork.returncode == Exit.INTERRUPTED
        assert "Traceback" not in output


@pytest.mark.parametrize("fault", ["its reader is gone", "its disk is full", "its reader hangs"])
def test_log_that_can_not_be_written_changes_nothing(fault: str) -> None:
    reading, writing = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    port = free_port()
    if fault == "its reader is gone":
        os.close(reading)
    where = full if fault == "its disk is full" else writing
    command = [sys.executable, "-m", PROGRAM]
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
    script = f"import os, runpy; os.closerange(0, 3); runpy.run_module({PROGRAM!r}, run_name='__main__')"
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
    command = [sys.executable, "-m", PROGRAM]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, stdout=full, stderr=full, check=False)
    os.close(full)
    assert done.returncode == Exit.MISCONFIGURED


def test_signals_change_the_log_level_while_the_process_runs(service: Service) -> None:
    with service.serving(LOG_LEVEL="warning", AUTH_MODE="open") as process:
        for number, before, now in ((signal.SIGUSR1, "warning", "debug"), (signal.SIGUSR2, "debug", "warning")):
            process.fork.send_signal(number)
            line = json.loads(process.out.readline())
            assert (line["event"], line["before"], line["now"]) == ("log_level.changed", before, now)
        process.fork.terminate()
        assert process.fork.wait(SECONDS) == Exit.DONE
