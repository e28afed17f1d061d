"""A real broker for one test, which may kill and restart it."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.infrastructure.broker import CLUSTER_ID, PROPERTIES, SHORT_LIVED, java, listeners, wait_for, why_no_maven
from tests.infrastructure.kafka_proxy import KafkaProxy, Trap
from tests.infrastructure.missing import cannot_run
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, wait_until


@dataclass(frozen=True, slots=True)
class ProxiedBroker:
    """A broker that advertises the port of a proxy: `advertised` is the proxy's to listen on, `bound` the broker's."""

    broker: "OwnBroker"
    advertised: int
    bound: int

    @property
    def address(self) -> str:
        """Return the address through the proxy."""
        return f"127.0.0.1:{self.advertised}"

    def proxy(self, trap: Trap) -> KafkaProxy:
        """Return the proxy, which calls `trap` for every request."""
        return KafkaProxy(self.advertised, self.bound, trap)


@contextmanager
def proxied_broker(reaper: Reaper) -> Iterator[ProxiedBroker]:
    """Start a broker that clients reach through a proxy, or directly at the broker's own address."""
    bound, advertised = free_port(), free_port()
    properties = {
        "listeners": f"PROXIED://127.0.0.1:{bound}",
        "advertised.listeners": f"PROXIED://127.0.0.1:{advertised}",
        "listener.security.protocol.map": "PROXIED:PLAINTEXT",
    }
    broker = OwnBroker(reaper, properties)
    broker.start()
    yield ProxiedBroker(broker, advertised, bound)
    broker.kill()


class OwnBroker:
    """Apache Kafka from Maven's jars at one address, with data that outlives its process.

    `further` are properties beside the usual ones; those that are lists get further members. `instead` replaces some.
    `controller_port`: one that the other controllers of a cluster know.
    """

    def __init__(
        self,
        reaper: Reaper,
        further: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
        instead: Mapping[str, str] | None = None,
        controller_port: int | None = None,
    ) -> None:
        if obstacle := why_no_maven():
            cannot_run(f"a broker that can be killed: {obstacle}")
        self._reaper = reaper
        self._folder = Path(tempfile.mkdtemp(prefix="order-platform-broker-"))
        reaper.folder(self._folder)
        self.ports = ports = {name: free_port() for name in ("INTERNAL", "CLIENT", "CONTROLLER")}
        ports["CONTROLLER"] = controller_port or ports["CONTROLLER"]
        self.address = f"127.0.0.1:{ports['CLIENT']}"
        properties = PROPERTIES | listeners("127.0.0.1", ports, self.address)
        for name, value in (further or {}).items():
            # A property with commas is a list, and gets further members.
            properties[name] = f"{properties[name]},{value}" if name in properties else value
        properties["log.dirs"] = str(self._folder / "data")
        # A killed broker can restart only when its old session has ended: 9 s by default.
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
        return [*java("384m", *SHORT_LIVED), *arguments]

    def _run(self, *arguments: str) -> None:
        subprocess.run(self._command(*arguments), check=True, capture_output=True)

    def _format(self) -> None:
        command = ("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._properties))
        self._run(*command, *self._format_options)

    def empty(self) -> None:
        """Delete its data. The broker must not run."""
        shutil.rmtree(self._folder / "data")
        self._format()

    def start(self) -> None:
        """Start the broker unless it runs, and return when it answers."""
        if self.runs:
            wait_for(self.address)
            return
        with (self._folder / "log").open("ab") as log:
            command = self._command("kafka.Kafka", str(self._properties))
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=self._folder)
        self._reaper.process(self._process, signal.SIGKILL)  # its data is thrown away
        wait_for(self.address)

    def kill(self) -> None:
        """Kill the broker without notice."""
        self.end(signal.SIGKILL)

    def end(self, sign: signal.Signals) -> None:
        """End the broker with a signal; return when it has ended."""
        self._signal(sign)
        assert self._process is not None
        self._process.wait()

    @property
    def runs(self) -> bool:
        """Return whether its process runs; a broker without space on its disk ends."""
        return self._process is not None and self._process.poll() is None

    def pause(self) -> None:
        """Pause the broker: it neither answers nor closes connections. Return once all its threads have stopped."""
        self._signal(signal.SIGSTOP)
        wait_until(self._stands_still, 10, "a broker that stands still")

    def _stands_still(self) -> bool:
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)

    def wake(self) -> None:
        """Resume the broker."""
        self._signal(signal.SIGCONT)

    def _signal(self, sign: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(sign)
