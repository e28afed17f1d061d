"""Services and migrations connect to the same database with every form of its address."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pytest

from services.balance.settings import Settings
from shared.postgres.connecting import CONNECT_TIMEOUT_SECONDS, connect
from shared.postgres.errors import translated
from shared.postgres.migrations import migrate
from shared.refusals import Unavailable
from tests.infrastructure.databases import Database
from tests.infrastructure.proxy import Mode, Proxy
from tests.infrastructure.waiting import free_port

SSL_REQUEST_BYTES = 8


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a server's certificate for localhost, cert.pem, and its key, key.pem."""
    folder = tmp_path_factory.mktemp("certificate")
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*request, *names, "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True, capture_output=True
    )
    return folder


@pytest.fixture
def sockets() -> Iterator[Path]:
    """Return a folder for a socket; the paths of pytest's folders are too long for sockets."""
    with TemporaryDirectory(prefix="pg") as folder:
        yield Path(folder)


class Front:
    """Other addresses of the test's server: a socket in a folder, and TLS."""

    def __init__(self, host: str, port: int, certificate: Path) -> None:
        self._server = (host, port)
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    async def plain(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward data."""
        answers, upstream = await asyncio.open_connection(*self._server)
        await asyncio.gather(_pump(reader, upstream), _pump(answers, writer))

    async def encrypted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Accept TLS and forward the decrypted data; refuse connections without TLS."""
        request = await reader.readexactly(SSL_REQUEST_BYTES)
        if request[4:] != (80877103).to_bytes(4, "big"):
            writer.close()
            return
        writer.write(b"S")
        await writer.start_tls(self._tls)
        await self.plain(reader, writer)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass  # a client that only wanted the handshake has closed
    finally:
        sink.close()


@asynccontextmanager
async def ways(database: Database, sockets: Path, certificate: Path) -> AsyncIterator[Mapping[str, str]]:
    """Return the values for the forms below: the server, a closed port, a silent port, a socket, TLS."""
    place = urlsplit(database.url)
    assert place.hostname is not None
    assert place.port is not None
    front = Front(place.hostname, place.port, certificate)
    async with AsyncExitStack() as stack:
        silent = await stack.enter_async_context(Proxy(place.hostname, place.port))
        silent.set(Mode.SILENT)
        await stack.enter_async_context(await asyncio.start_unix_server(front.plain, sockets / ".s.PGSQL.5432"))
        tls = await stack.enter_async_context(await asyncio.start_server(front.encrypted, "127.0.0.1", 0))
        login = f"{place.username}:{place.password}" if place.password else f"{place.username}"
        yield {
            "login": login,
            "user": place.username or "",
            "password": place.password or "unused",
            "host": place.hostname,
            "port": str(place.port),
            "db": place.path[1:],
            "nothing": str(free_port()),
            "silent": str(silent.port),
            "folder": str(sockets),
            "quoted": str(sockets).replace("/", "%2F"),
            "tls": str(tls.sockets[0].getsockname()[1]),
            "cert": str(certificate / "cert.pem"),
            "key": str(certificate / "key.pem"),
        }


FORMS = [
    "postgresql://{login}@{host}:{port}/{db}",
    "postgres://{login}@{host}:{port}/{db}?target_session_attrs=read-write",
    "postgresql://{login}@{host}:{nothing},{host}:{port}/{db}?target_session_attrs=primary",
    "postgresql://{login}@/{db}?host={host},{host}&port={nothing},{port}",
    "postgresql:///{db}?host={host}&port={port}&user={user}&password={password}",
    "postgresql://?host={host}&port={port}&user={user}&password={password}&dbname={db}",
    "postgresql://{login}@{host}:{port}/{db}?application_name=shop&options=-c%20work_mem%3D1MB",
    "postgresql://{login}@{host}:{port}/{db}?sslmode=prefer",
    "postgresql://{login}@/{db}?host={folder}",
    "postgresql://{login}@{quoted}:5432/{db}?sslmode=require",  # a socket has no TLS, and needs none
    "postgresql://{login}@localhost:{tls}/{db}?sslmode=require",
    "postgresql://{login}@localhost:{tls}/{db}?sslmode=verify-full&sslrootcert={cert}",
    "postgresql://{login}@127.0.0.1:{tls}/{db}?sslmode=verify-ca&sslrootcert={cert}&ssl_min_protocol_version=TLSv1.3",
    "postgresql://{login}@localhost:{tls}/{db}?sslmode=verify-full&sslrootcert={cert}&sslcert={cert}&sslkey={key}",
]


@pytest.mark.parametrize("form", FORMS)
async def test_services_and_migrations_understand_the_same_form(
    database: Database, sockets: Path, certificate: Path, tmp_path: Path, form: str
) -> None:
    (tmp_path / "0001.first.sql").write_text("SELECT 1;")
    async with ways(database, sockets, certificate) as names:
        url = form.format_map(names)
        chosen = Settings(database_url=url)
        await asyncio.to_thread(migrate, chosen.current_database_url(), "things", tmp_path)
        connection = await connect(chosen, "forms")
        try:
            name = await connection.fetchval("SELECT current_database()")
            application = await connection.fetchval("SHOW application_name")
        finally:
            await connection.close()
        assert name == names["db"]
        assert application == ("shop forms" if "application_name=shop" in form else "forms")


@pytest.mark.parametrize(
    "form",
    [
        "postgresql://{login}@127.0.0.1:{tls}/{db}?sslmode=verify-full&sslrootcert={cert}",  # it is for localhost
        "postgresql://{login}@localhost:{tls}/{db}?sslmode=disable",
        "postgresql://{login}@{host}:{port}/{db}?sslmode=require",  # the tests' server has no TLS
        "postgresql://{login}@{host}:{nothing},{host}:{nothing}/{db}",
    ],
)
async def test_migration_and_service_refuse_the_same_addresses(
    database: Database, sockets: Path, certificate: Path, tmp_path: Path, form: str
) -> None:
    async with ways(database, sockets, certificate) as names:
        chosen = Settings(database_url=form.format_map(names))
        with pytest.raises(Unavailable):
            await asyncio.to_thread(migrate, chosen.current_database_url(), "things", tmp_path)
        with pytest.raises(Unavailable), translated():
            await connect(chosen, "forms")


async def test_silent_host_does_not_prevent_a_try_of_the_next_one(
    database: Database, sockets: Path, certificate: Path
) -> None:
    async with ways(database, sockets, certificate) as names, asyncio.timeout(CONNECT_TIMEOUT_SECONDS / 2):
        chosen = Settings(database_url="postgresql://{login}@{host}:{silent},{host}:{port}/{db}".format_map(names))
        await (await connect(chosen, "forms")).close()
