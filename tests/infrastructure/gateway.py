"""nginx as the gateway, with the configuration of deploy/gateway and other addresses."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import free_port, listens, wait_until

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "gateway" / "nginx.conf"
# What the configuration calls each service.
SERVICES = {"order": "order:8001", "product": "product:8002", "coupon": "coupon:8003", "balance": "balance:8004"}
START_SECONDS = 10
STOP_SECONDS = 10


def nginx() -> str:
    """The program. Without it tests are skipped; in CI they fail."""
    # Debian keeps it where only root's PATH looks.
    found = shutil.which("nginx", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
    if found is None:
        missing = "no nginx here (Debian, Ubuntu: apt-get install nginx-light)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


def replaced(text: str, old: str, new: str) -> str:
    """The configuration with one of its lines changed."""
    assert text.count(old) == 1, old
    return text.replace(old, new)


@contextmanager
def gateway(services: Mapping[str, str], reaper: Reaper, changes: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run the gateway and return its URL.

    `services` gives the URL of each service, `changes` further words to replace, such as times.
    """
    program = nginx()
    # Open to all, as nginx's workers are nobody's processes where we are root.
    folder = Path(tempfile.mkdtemp(prefix="order-platform-gateway-"))
    folder.chmod(0o755)
    reaper.folder(folder)
    port = free_port()
    text = CONFIGURATION.read_text()
    for service, name in SERVICES.items():
        text = replaced(text, f"http://{name}", services[service])
    text = replaced(text, "listen 8080;", f"listen 127.0.0.1:{port};")
    text = replaced(text, "/tmp/nginx.pid", str(folder / "nginx.pid"))
    # Packages keep these where only root can write.
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    text = replaced(text, "http {\n", "http {\n" + "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds))
    for old, new in (changes or {}).items():
        text = replaced(text, old, new)
    (folder / "nginx.conf").write_text(text)
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
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
