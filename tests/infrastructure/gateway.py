"""nginx as the gateway, with the configuration of deploy/gateway and other addresses."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.infrastructure.missing import cannot_run, find_program
from tests.infrastructure.raw_http import RawAnswer, send
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, listens, wait_until

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "gateway"
# The name of each service in the configuration.
SERVICES = {"order": "order:8001", "product": "product:8002", "coupon": "coupon:8003", "balance": "balance:8004"}
# Tests send all their requests from one address.
NO_LIMITS = {
    "limit_conn connections 128;": "",
    "limit_req zone=by_address burst=200 nodelay;": "",
    "limit_req zone=by_token burst=100 nodelay;": "",
}
START_SECONDS = 10
STOP_SECONDS = 10


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A running gateway. `behind` is its inner listener, which takes requests behind a header of the PROXY protocol."""

    url: str
    behind: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        """Return all lines so far, of the access log and of the error log."""
        return (self.folder / "log").read_text()

    async def send_from(self, address: str, data: bytes) -> RawAnswer:
        """Send bytes as `stream` does for a client of this address, and read the answer."""
        kind, own = (b"TCP6", b"::1") if ":" in address else (b"TCP4", b"127.0.0.1")
        return await send(self.behind, b"PROXY %s %s %s 40000 8080\r\n" % (kind, address.encode(), own) + data)

    def reload(self) -> None:
        """Let nginx read its files again, as `nginx -s reload` does."""
        self.process.send_signal(signal.SIGHUP)


def nginx() -> str:
    """Return the program's path. Without nginx, skip the test; in CI, fail it."""
    found = find_program("nginx")
    if found is None or not Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        cannot_run("no nginx with `stream` here (Debian, Ubuntu: apt-get install nginx-light libnginx-mod-stream)")
    return found


def replaced(text: str, old: str, new: str) -> str:
    """Return the configuration with one line changed."""
    assert text.count(old) == 1, old
    return text.replace(old, new)


@contextmanager
def gateway(
    services: Mapping[str, str],
    reaper: Reaper,
    changes: Mapping[str, str] = NO_LIMITS,
    listeners: Path = CONFIGURATION / "plain",
) -> Iterator[RunningGateway]:
    """Run the gateway.

    `services` gives the URL of each service, `changes` further words to replace, such as times and limits; `listeners`
    is the folder with the listener and its certificate.
    """
    program = nginx()
    # Readable for all: if we are root, nginx's workers run as `nobody`.
    folder = Path(tempfile.mkdtemp(prefix="order-platform-gateway-"))
    folder.chmod(0o755)
    reaper.folder(folder)
    port, behind = free_port(), free_port()
    text = (CONFIGURATION / "nginx.conf").read_text()
    for service, name in SERVICES.items():
        text = replaced(text, f"http://{name}", services[service])
    text = replaced(text, "listen 127.0.0.1:8081 ", f"listen 127.0.0.1:{behind} ").replace("/tmp/", f"{folder}/")
    for old, new in changes.items():
        text = replaced(text, old, new)
    (folder / "nginx.conf").write_text(text)
    shutil.copy(CONFIGURATION / "removed-headers.conf", folder)
    shutil.copytree(listeners, folder / "listeners")
    listener = folder / "listeners" / "listener.conf"
    text = replaced(listener.read_text(), "proxy_pass 127.0.0.1:8081;", f"proxy_pass 127.0.0.1:{behind};")
    listener.write_text(replaced(text, "listen 8080", f"listen 127.0.0.1:{port}"))
    log = folder / "log"
    with log.open("wb") as output:
        command = [program, "-c", str(folder / "nginx.conf"), "-e", "stderr", "-g", "daemon off;"]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    reaper.process(process)

    def is_up() -> bool:
        assert process.poll() is None, log.read_text()
        return listens("127.0.0.1", port)

    wait_until(is_up, START_SECONDS, "the gateway")
    try:
        yield RunningGateway(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{behind}", folder, process)
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
