"""A real broker of the test's own, which it may kill and start again."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.infrastructure.broker import CLUSTER_ID, PROPERTIES, jars, listeners, wait_for, why_no_maven
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, wait_until

JAVA = ["java", "-Xmx384m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]


class OwnBroker:
    """Apache Kafka from Maven's jars at one address, with data that outlives its process.

    `further` are properties beside the usual ones; those that are lists get further members. `instead` replaces some.
    """

    def __init__(
        self,
        reaper: Reaper,
        further: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
        instead: Mapping[str, str] | None = None,
    ) -> None:
        if obstacle := why_no_maven():
            pytest.skip(f"a broker that can be killed: {obstacle}")
        self._reaper = reaper
        self._folder = Path(tempfile.mkdtemp(prefix="order-platform-broker-"))
        reaper.folder(self._folder)
        self.ports = ports = {name: free_port() for name in ("INTERNAL", "CLIENT", "CONTROLLER")}
        self.address = f"127.0.0.1:{ports['CLIENT']}"
        properties = PROPERTIES | listeners("127.0.0.1", ports, self.address)
        for name, value in (further or {}).items():
            # What has commas is a list, and gets further members.
            properties[name] = f"{properties[name]},{value}" if name in properties else value
        properties["log.dirs"] = str(self._folder / "data")
        # A broker that was killed may come back only when its old session is over: 9 s by default.
        properties["broker.session.timeout.ms"], properties["broker.heartbeat.interval.ms"] = "1500", "300"
        properties |= instead or {}
        if "controller" not in properties["process.roles"]:
            properties["listeners"] = properties["listeners"].rpartition(",CONTROLLER")[0]
        self._properties = self._folder / "server.properties"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        self._format_options = format_options
        self._format()
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self, *arguments: str) -> list[str]:
        return [*JAVA, "-cp", f"{jars()}/*", *arguments]

    def _run(self, *arguments: str) -> None:
        subprocess.run(self._command(*arguments), check=True, capture_output=True)

    def _format(self) -> None:
        command = ("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._properties))
        self._run(*command, *self._format_options)

    def empty(self) -> None:
        """Lose all that it keeps. It must not run."""
        shutil.rmtree(self._folder / "data")
        self._format()

    def start(self) -> None:
        """Start it, and return when it answers."""
        with (self._folder / "log").open("ab") as log:
            command = self._command("kafka.Kafka", str(self._properties))
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=self._folder)
        self._reaper.process(self._process)
        wait_for(self.address)

    def kill(self) -> None:
        """Kill it without notice."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        """Let it neither answer nor hang up. Returns once all its threads stand still; on a busy machine some lag."""
        self._signal(signal.SIGSTOP)
        wait_until(self._stands_still, 10, "a broker that stands still")

    def _stands_still(self) -> bool:
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)

    def wake(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, sign: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(sign)
