"""Tells how each server of the cluster is started on one machine: its command and its environment.

The configuration is what a deployment uses: patroni.yml, etcd.env and haproxy.cfg beside this file.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.configuration import ROOT
from deploy.local.postgres import let_in
from deploy.local.processes import Account

FOLDER = Path(__file__).parent
PATRONI_YML, STRICT_YML, ETCD_ENV, HAPROXY_CFG = (
    FOLDER / name for name in ("patroni.yml", "strict.yml", "etcd.env", "haproxy.cfg")
)
ENVIRONMENT = ROOT / ".venv-ha"  # `make environment-ha` installs it
MEMBERS = ("postgres-1", "postgres-2", "postgres-3")  # haproxy.cfg has these three; the third one is optional
ETCDS = ("etcd-1", "etcd-2", "etcd-3")
HAPROXY = "haproxy"
PASSWORDS = ("postgres", "replicator", "patroni")  # the superuser, the standbys, and Patroni's REST API
POSTGRES_VERSION_MINIMUM = 15
NOBODY_LISTENS = "127.0.0.1:1"  # the address of a member that this cluster does not have


@dataclass(frozen=True, slots=True)
class Program:
    """One server's command, and its whole environment."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


def port_names(members: int) -> list[str]:
    """Return the name of each port that a cluster of so many members needs."""
    chosen = MEMBERS[:members]
    return [HAPROXY, *chosen, *map(patroni_port, chosen), *ETCDS, *map(peer_port, ETCDS)]


def patroni_port(member: str) -> str:
    """Return the name of the port of a member's Patroni."""
    return f"{member}-patroni"


def peer_port(etcd: str) -> str:
    """Return the name of the port at which an etcd hears the other two."""
    return f"{etcd}-peers"


@dataclass(frozen=True, slots=True)
class Layout:
    """A cluster of two or three members on this machine. `ports` and `passwords`: by the names above.

    `binaries` has Postgres' programs. The folder has one for each server; who runs Patroni must own those of members.
    """

    folder: Path
    members: tuple[str, ...]
    ports: Mapping[str, int]
    passwords: Mapping[str, str]
    binaries: Path

    def data(self, member: str) -> Path:
        """Return the data directory of a member's Postgres."""
        return self.folder / member / "data"

    def address(self, port: str) -> str:
        """Return the address of a port, by its name."""
        return f"127.0.0.1:{self.ports[port]}"

    def client_url(self, etcd: str) -> str:
        """Return the URL at which an etcd serves Patroni."""
        return f"http://{self.address(etcd)}"

    def peer_url(self, etcd: str) -> str:
        """Return the URL at which an etcd hears the other two."""
        return f"http://{self.address(peer_port(etcd))}"

    def etcd(self, name: str) -> Program:
        """Return one of the three that decide who is primary."""
        clients, peers = self.client_url(name), self.peer_url(name)
        own = {
            "ETCD_NAME": name,
            "ETCD_DATA_DIR": str(self.folder / name),
            "ETCD_LISTEN_CLIENT_URLS": clients,
            "ETCD_ADVERTISE_CLIENT_URLS": clients,
            "ETCD_LISTEN_PEER_URLS": peers,
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": peers,
            "ETCD_INITIAL_CLUSTER": ",".join(f"{etcd}={self.peer_url(etcd)}" for etcd in ETCDS),
        }
        return Program(name, (find("etcd"),), _inherited() | variables(ETCD_ENV) | own)

    def patroni(self, member: str) -> Program:
        """Return the Patroni of a member, which starts and stops its Postgres."""
        own = {
            "PATRONI_NAME": member,
            "PATRONI_ETCD3_HOSTS": self.etcd_hosts,
            "PATRONI_RESTAPI_LISTEN": self.address(patroni_port(member)),
            "PATRONI_RESTAPI_CONNECT_ADDRESS": self.address(patroni_port(member)),
            "PATRONI_RESTAPI_USERNAME": "patroni",
            "PATRONI_RESTAPI_PASSWORD": self.passwords["patroni"],
            "PATRONI_POSTGRESQL_LISTEN": self.address(member),
            "PATRONI_POSTGRESQL_CONNECT_ADDRESS": self.address(member),
            "PATRONI_POSTGRESQL_DATA_DIR": str(self.data(member)),
            "PATRONI_POSTGRESQL_BIN_DIR": str(self.binaries),
            "PATRONI_POSTGRESQL_PGPASS": str(self.folder / member / "pgpass"),
            "PATRONI_SUPERUSER_PASSWORD": self.passwords["postgres"],
            "PATRONI_REPLICATION_PASSWORD": self.passwords["replicator"],
        }
        return Program(member, (str(ENVIRONMENT / "bin" / "patroni"), str(PATRONI_YML)), _inherited() | own)

    def haproxy(self) -> Program:
        """Return the balancer, which leads to the primary."""
        own = {"HA_LISTEN": self.address(HAPROXY)}
        for number, member in enumerate(MEMBERS, 1):
            has = member in self.members
            own[f"POSTGRES_{number}"] = self.address(member) if has else NOBODY_LISTENS
            own[f"PATRONI_{number}"] = str(self.ports[patroni_port(member)]) if has else "1"
        return Program(HAPROXY, (find("haproxy"), "-db", "-f", str(HAPROXY_CFG)), _inherited() | own)

    @property
    def etcd_hosts(self) -> str:
        """Return the addresses of all etcds, as Patroni reads them."""
        return ",".join(f"'{self.address(etcd)}'" for etcd in ETCDS)

    @property
    def patronictl(self) -> tuple[str, ...]:
        """Return the command line tool with its configuration, which `prepare` writes."""
        return str(ENVIRONMENT / "bin" / "patronictl"), "-c", str(self.folder / "patronictl.yml")

    def strictness(self, *, strict: bool) -> tuple[str, ...]:
        """Return the command that applies strict.yml, or undoes it."""
        undo = ("--set", "synchronous_mode=true", "--set", "synchronous_mode_strict=false")
        change = ("--apply", str(STRICT_YML)) if strict else undo
        return *self.patronictl, "edit-config", *change, "--force"

    def prepare(self, account: Account | None, say: Callable[[str], None]) -> None:
        """Create the folders. `account`: the user that runs Patroni, which refuses root as Postgres does; None if it is
        this one.
        """
        for member in self.members:
            (self.folder / member).mkdir(parents=True, exist_ok=True)
            if account is not None:
                os.chown(self.folder / member, account.uid, account.gid)
        if account is not None:
            # What that user must reach: its packages, their Python, and the configuration.
            for path in (self.folder, ENVIRONMENT, (ENVIRONMENT / "bin" / "python").resolve(), FOLDER):
                let_in(path, say)
        self._write_patronictl()

    def _write_patronictl(self) -> None:
        """Write the configuration of the command line tool, for its owner only: it has a password."""
        named = {name: found[1] for name in ("scope", "namespace") if (found := _top_level(name))}
        login = f"{{username: patroni, password: '{self.passwords['patroni']}'}}"
        text = f"scope: {named['scope']}\nnamespace: {named['namespace']}\netcd3: {{hosts: [{self.etcd_hosts}]}}\n"
        path = self.folder / "patronictl.yml"
        path.touch(mode=0o600)
        path.write_text(f"{text}ctl: {{authentication: {login}}}\n")


def missing() -> list[str]:
    """Return a line for each kind of program that this machine lacks."""
    found = {
        "etcd-server": _which("etcd"),
        "haproxy": _which("haproxy"),
        "postgresql": postgres_binaries(),
    }
    lines = []
    if packages := [package for package, path in found.items() if path is None]:
        lines.append(f"Programs are missing. Debian, Ubuntu: apt-get install {' '.join(packages)}")
    if not (ENVIRONMENT / "bin" / "patroni").exists():
        lines.append("Patroni is missing: make environment-ha")
    return lines


def postgres_binaries() -> Path | None:
    """Return the programs of the newest Postgres of the system that is new enough."""
    versions = {
        int(match[1]): path
        for path in Path("/usr/lib/postgresql").glob("*/bin")
        if (match := re.fullmatch(r"(\d+)", path.parent.name)) and (path / "initdb").exists()
    }
    newest = max(versions, default=0)
    return versions[newest] if newest >= POSTGRES_VERSION_MINIMUM else None


def variables(file: Path) -> dict[str, str]:
    """Return the variables of an environment file."""
    return dict(re.findall(r"^(\w+)=(.*)$", file.read_text("utf-8"), re.M))


def find(program: str) -> str:
    """Return a program's path. Raises FileNotFoundError."""
    path = _which(program)
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    return path


def _which(program: str) -> str | None:
    # Debian installs servers in a folder of root's PATH.
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")


def _top_level(name: str) -> "re.Match[str] | None":
    return re.search(rf"^{name}: (\S+)$", PATRONI_YML.read_text("utf-8"), re.M)


def _inherited() -> dict[str, str]:
    """Return the part of this process' environment that servers get: settings of other programs must not reach them."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
