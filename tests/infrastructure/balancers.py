"""HAProxy and nginx before the replicas of all services, with the configurations of deploy/balancers."""

import re
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.infrastructure.missing import cannot_run, find_program
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_ports, listens, wait_until

CONFIGURATIONS = Path(__file__).parents[2] / "deploy" / "balancers"
START_SECONDS = 10
STOP_SECONDS = 10
# The ports in the configurations: of the balancer itself, and of a replica, for clients and for services and probes.
CLIENTS = 8080
INTERNAL = {"product": 8102, "coupon": 8103, "balance": 8104}
REPLICA = re.compile(r"\b([a-z]+-[12]):8([01])0[1-4]")
PROBED = re.compile(r"\b([a-z]+-[12])(:800[1-4] check port )\d+")


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a replica: for clients, and for services and probes."""

    clients: int
    internal: int


class Balancer(ABC):
    """A balancer at ports of its own, which are known before it is started."""

    def __init__(self, reaper: Reaper) -> None:
        self._program = self._find()
        self._reaper = reaper
        own = (CLIENTS, *INTERNAL.values())
        self._ports = dict(zip(own, free_ports(len(own)), strict=True))

    @property
    def url(self) -> str:
        """Return the URL for clients."""
        return f"http://127.0.0.1:{self._ports[CLIENTS]}"

    def internal_url(self, participant: str) -> str:
        """Return the URL at which the order service calls a participant."""
        return f"http://127.0.0.1:{self._ports[INTERNAL[participant]]}"

    @contextmanager
    def running(self, replicas: Mapping[str, Ports]) -> Iterator[None]:
        """Run it before these replicas, by name such as `order-1`. The configuration's others are left out."""
        # Readable for all: if we are root, nginx's workers run as `nobody`.
        folder = Path(tempfile.mkdtemp(prefix="order-platform-balancer-"))
        folder.chmod(0o755)
        self._reaper.folder(folder)
        configuration, log = folder / "configuration", folder / "log"
        configuration.write_text(self._text(replicas).replace("/tmp/", f"{folder}/"))
        with log.open("wb") as output:
            command = self._command(configuration)
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        self._reaper.process(process)

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()
            return all(listens("127.0.0.1", port) for port in self._ports.values())

        wait_until(is_up, START_SECONDS, type(self).__name__)
        try:
            yield
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)

    def _text(self, replicas: Mapping[str, Ports]) -> str:
        """Return the configuration with other addresses."""

        def replica(found: re.Match[str]) -> str:
            ports = replicas[found[1]]
            return f"127.0.0.1:{ports.internal if found[2] == '1' else ports.clients}"

        lines = []
        for line in (CONFIGURATIONS / self._configuration).read_text().splitlines():
            named = REPLICA.search(line)
            if named and named[1] not in replicas:
                continue
            line = PROBED.sub(lambda found: f"{found[1]}{found[2]}{replicas[found[1]].internal}", line)  # noqa: PLW2901
            lines.append(REPLICA.sub(replica, line))
        text = "\n".join(lines) + "\n"
        for port, own in self._ports.items():
            text, count = re.subn(rf"^(\s*(?:bind|listen) )(:?){port}\b", rf"\g<1>127.0.0.1:{own}", text, flags=re.M)
            assert count == 1, port
        return text

    @property
    @abstractmethod
    def _configuration(self) -> str:
        """The name of its file in deploy/balancers."""

    @abstractmethod
    def _find(self) -> str:
        """Return the program's path. Without it, skip the test; in CI, fail it."""

    @abstractmethod
    def _command(self, configuration: Path) -> list[str]:
        """Return the command that runs it in the foreground."""


class HAProxy(Balancer):
    """HAProxy asks each replica whether it is ready. Here, nothing else keeps it from one that has stopped: unlike in
    deploy/balancers, it tries no other replica after a refused connection."""

    _configuration = "haproxy.cfg"

    def _text(self, replicas: Mapping[str, Ports]) -> str:
        text, count = re.subn(r"^  retries 2$", "  retries 0", super()._text(replicas), flags=re.M)
        assert count == 1
        return text

    def _find(self) -> str:
        return find_program("haproxy") or cannot_run("no HAProxy here (Debian, Ubuntu: apt-get install haproxy)")

    def _command(self, configuration: Path) -> list[str]:
        return [self._program, "-db", "-f", str(configuration)]


class Nginx(Balancer):
    """nginx learns from a connection that is refused that a replica has stopped."""

    _configuration = "nginx.conf"

    def _find(self) -> str:
        return find_program("nginx") or cannot_run("no nginx here (Debian, Ubuntu: apt-get install nginx-light)")

    def _command(self, configuration: Path) -> list[str]:
        return [self._program, "-c", str(configuration), "-e", "stderr", "-g", "daemon off;"]
