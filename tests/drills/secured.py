"""The platform in jwt mode, with TLS, secrets between the services, and passwords; all are replaced under load."""

import asyncio
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import asyncpg
import psycopg
from cryptography import x509

from tests.drills.drill import Drill, now
from tests.drills.platform import Pace, Platform, platform
from tests.drills.tokens import Tokens
from tests.faults.process import Process
from tests.infrastructure.authority import Authority
from tests.infrastructure.databases import PASSWORD
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually
from tests.runbook.blocks import blocks_by
from tests.runbook.shell import Shell

TLS_SERVICES = ("product", "coupon", "balance", "order", "relay")
# The balance service knows its caller by a certificate, the others by a secret.
WITH_SECRET = ("product", "coupon")
ROLES = {**{name: f"{name}_service" for name in TLS_SERVICES}, "consumer": "platform_consumer"}
SCOPES = "orders:write catalog:write coupons:write accounts:charge events:read"
BOUGHT_BETWEEN = 50  # orders that customers buy after each step
USED_SECONDS = 30


class Security:
    """The files of all services. Customers trust both authorities, and have a token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.old, self.new = Authority(folder, "old"), Authority(folder, "new")
        self.trusted = folder / "trusted.pem"
        self.trust(self.old)
        self.tls = ssl.create_default_context(cafile=str(self.old.file))
        self.tls.load_verify_locations(self.new.file)
        for name in TLS_SERVICES:
            self.old.issue(name)
        self.old.issue("caller", ["order"])
        self._tokens = Tokens(folder)
        self.token = self._tokens.token("shop", SCOPES)  # of all customers
        (folder / "token").write_text(self.token)
        self.secrets = {name: secrets.token_hex(32) for name in WITH_SECRET}
        for name, secret in self.secrets.items():
            self.write(f"{name}.secrets", f"order {secret}\n")
            self.write(f"order-for-{name}.secrets", f"order {secret}\n")

    def path(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.folder / name)

    def write(self, name: str, text: str) -> None:
        """Replace a file, by renaming a new one."""
        new = self.folder / f"{name}.written"
        new.write_text(text)
        new.rename(self.folder / name)

    def trust(self, *authorities: Authority) -> None:
        """Have all services trust these authorities."""
        self.write(self.trusted.name, "".join(one.file.read_text() for one in authorities))

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings of all services."""
        common = {
            **self._tokens.settings,
            "CONSUMER_RELAY_CA_FILE": str(self.trusted),
            "CONSUMER_RELAY_TOKEN_FILE": self.path("token"),
            "BALANCE_INTERNAL_CLIENT_CA_FILE": str(self.trusted),
            **{f"{name.upper()}_INTERNAL_SECRET_FILE": self.path(f"{name}.secrets") for name in WITH_SECRET},
        }
        files = {"CERTIFICATE": "pem", "KEY": "key"}
        for name in TLS_SERVICES:
            common |= {f"{name.upper()}_TLS_{part}_FILE": self.path(f"{name}.{end}") for part, end in files.items()}
        return common | self.operator

    @property
    def operator(self) -> dict[str, str]:
        """Return the settings with which the order service, and its command line, call the participants."""
        files = {"CERTIFICATE": "pem", "KEY": "key"}
        own = {f"ORDER_PARTICIPANTS_{part}_FILE": self.path(f"caller.{end}") for part, end in files.items()}
        own["ORDER_PARTICIPANTS_CA_FILE"] = str(self.trusted)
        for name in WITH_SECRET:
            own[f"ORDER_{name.upper()}_INTERNAL_SECRET_FILE"] = self.path(f"order-for-{name}.secrets")
        return own

    def session(self, url: str, *middlewares: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
        """Return a customer's session, whose requests pass these middlewares."""
        return aiohttp.ClientSession(
            url,
            connector=aiohttp.TCPConnector(force_close=True, limit=0, ssl=self.tls),
            timeout=aiohttp.ClientTimeout(total=10),
            headers={"Authorization": f"Bearer {self.token}"},
            middlewares=middlewares,
        )


@asynccontextmanager
async def secured(reaper: Reaper, folder: Path, pace: Pace) -> AsyncIterator[Platform]:
    """Run the platform so that every call needs a certificate, a secret or a token, and every login a password."""
    security = Security(folder / "security")
    async with platform(reaper, folder, pace, security=security, settings=security.settings) as running:
        with psycopg.connect(running.postgres.url, autocommit=True) as connection:
            rules = "('host all postgres 127.0.0.1/32 trust'), ('host all all 127.0.0.1/32 scram-sha-256')"
            connection.execute(f"COPY (VALUES {rules}) TO PROGRAM 'cat > pg_hba.conf'")
            connection.execute("SELECT pg_reload_conf()")
        yield running


async def certificates(platform: Platform) -> float:
    """Replace all certificates by those of another authority: first trust both, then replace, then trust the new."""
    security = _security(platform)
    security.trust(security.old, security.new)
    await platform.load.has_sold(BOUGHT_BETWEEN)
    security.new.issue("caller", ["order"])
    for name in TLS_SERVICES:
        security.new.issue(name)
        for process in platform.cluster.processes.values():
            if process.service == name:
                await _serves(process, security.new)
        await platform.load.has_sold(BOUGHT_BETWEEN)
    security.trust(security.new)
    await platform.load.has_sold(BOUGHT_BETWEEN)
    return now()


async def _serves(process: Process, authority: Authority) -> None:
    """Wait until both listeners of a process have a certificate of this authority."""
    own = x509.load_pem_x509_certificate(authority.file.read_bytes()).subject
    for port in (process.port, process.internal_port):

        async def is_new(port: int | None = port) -> bool:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            served = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return bool(x509.load_der_x509_certificate(served).issuer == own)

        await eventually(is_new, USED_SECONDS, f"the new certificate of {process.name}")


async def internal_secrets(platform: Platform) -> float:
    """Replace the secrets between the services: accept both, send the new one, refuse the old one."""
    security = _security(platform)
    for name, old in security.secrets.items():
        new = secrets.token_hex(32)
        security.write(f"{name}.secrets", f"order {old}\norder {new}\n")
        await _answers(platform, name, new, 200)
        security.write(f"order-for-{name}.secrets", f"order {new}\n")
        await platform.load.has_sold(BOUGHT_BETWEEN)
        security.write(f"{name}.secrets", f"order {new}\n")
        await _answers(platform, name, old, 401)
        await platform.load.has_sold(BOUGHT_BETWEEN)
        security.secrets[name] = new
    return now()


async def _answers(platform: Platform, name: str, secret: str, status: int) -> None:
    """Wait until a participant answers a caller with this secret so."""
    url = platform.process(name).internal_url
    headers = {"Authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:

        async def answers() -> bool:
            path = "/internal/v1/holds?order_id=00000000-0000-7000-8000-000000000000"
            async with session.get(path, ssl=_security(platform).tls) as answer:
                return answer.status == status

        await eventually(answers, USED_SECONDS, f"{status} from {name}")


async def passwords(platform: Platform) -> float:
    """Replace the passwords of all services with the commands of the runbook; then end all sessions once more."""
    steps = blocks_by("tests/integration/test_password_rotation.py")
    database = platform.cluster.database
    for service, role in ROLES.items():
        folder = platform.folder / f"operator-{service}"
        folder.mkdir()
        variables: Mapping[str, str] = {
            "ADMIN": database.url,
            "MONITOR": database.url,
            "ADDRESS_FILE": str(platform.addresses.path(service)),
        }
        shell = Shell(folder, variables, sys.executable)
        for step in steps:
            await shell.run(replace(step, code=step.code.replace("order_service", role)))
        await platform.load.has_sold(BOUGHT_BETWEEN)
        try:
            await asyncpg.connect(database.as_role(role))
        except asyncpg.InvalidPasswordError:
            continue
        raise AssertionError(f"the old password of {role} is worth something")
    with psycopg.connect(database.url, autocommit=True) as connection:
        # For the next rotation, and the drill's own calls: nobody uses these logins now.
        for role in ROLES.values():
            connection.execute(f"ALTER ROLE {role}_a PASSWORD '{PASSWORD}'")
    return now()


def _security(platform: Platform) -> Security:
    assert isinstance(platform.cluster.security, Security)
    return platform.cluster.security


DRILLS = [
    Drill(
        "rotate-certificates",
        "all certificates, and the authority that signs them, are replaced",
        certificates,
        failed_max=0,
        in_short=True,
    ),
    Drill("rotate-secrets", "the secrets between the services are replaced", internal_secrets, failed_max=0),
    Drill(
        "rotate-passwords",
        "the services' passwords of Postgres are replaced, and their sessions ended",
        passwords,
        failed_max=0,
    ),
]
