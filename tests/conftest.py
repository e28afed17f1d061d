"""Fixtures of every layer: a real Postgres and the best broker that this machine has, started when first needed.

postgres_url      session  the superuser's address of a fresh database with the deployment's roles and schemas
database          module   a `Database` for one module, also with the tables that all services' migrations make; `.url`,
                           `.as_role("order_service")`
create_database   session  creates a further one: with roles and schemas, `create_database(migrated=True)` with tables,
                           `create_database(roles=False)` with nothing
kafka_bootstrap   session  the broker's `host:port`; its topics stay for all later tests, so name them apart
stack             session  the five services as processes under `python -m deploy.local`; tests share it, so each
                           makes products, coupons and users of its own
run_stack         session  starts further ones: `run_stack(auth="jwt")`
shop              function a client of each of the stack's services

pytest prints the chosen servers after the number of collected tests. TEST_DATABASE_URL (a superuser's) and
TEST_KAFKA_BOOTSTRAP_SERVERS name running servers; TEST_POSTGRES=docker|system|embedded and
TEST_BROKER=docker|maven|embedded choose. TEST_TEMPLATE_URL names a migrated database of the same server, to copy. With
CI=true the broker has to be a real one.
"""

import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from deploy.local.progress import Progress
from tests.infrastructure.broker import choose_broker
from tests.infrastructure.databases import Database, fresh_database
from tests.infrastructure.distribution import StackTogether
from tests.infrastructure.postgres import choose_postgres
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.services import templates
from tests.infrastructure.sources import Source
from tests.infrastructure.stack import RunStack, Shop, Stack, running, shopping

# Tests of the rules need no tokens; those of identities set another mode.
os.environ.setdefault("AUTH_MODE", "open")
# A shell that runs the tests in the background ignores Ctrl-C for them, and the processes that they start inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
LONG_SECONDS = 10.0
POSTGRES = pytest.StashKey[Source]()
BROKER = pytest.StashKey[Source]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Show on a terminal how long a test runs that runs for long, where its output is not captured: with -s."""
    with Progress("still running", first_seconds=LONG_SECONDS):
        return (yield)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what tests will run against where they run in several processes, which can't say it themselves."""
    if not config.getoption("numprocesses", None):
        return []
    return [f"Postgres: {choose_postgres(os.environ).description}", f"Kafka: {choose_broker(os.environ).description}"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> StackTogether | None:
    """Choose what gives out the tests, where they run in several processes."""
    return StackTogether(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Choose the servers that the collected tests need, so that a missing server is reported immediately."""
    # Collections of garbage skip what was loaded: otherwise they stop services in this process for 0.2 s and more.
    gc.collect()
    gc.freeze()
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if "postgres_server" in needed:
        session.config.stash[POSTGRES] = choose_postgres(os.environ)
    if "kafka_bootstrap" in needed:
        session.config.stash[BROKER] = choose_broker(os.environ)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say what the tests run against."""
    chosen = {"Postgres": config.stash.get(POSTGRES, None), "Kafka": config.stash.get(BROKER, None)}
    return [f"{server}: {source.description}" for server, source in chosen.items() if source]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the embedded mock of a broker can't do; with CI=true there is a real one, so nothing is skipped."""
    broker = item.config.stash.get(BROKER, None)
    if item.get_closest_marker("real_broker") and broker and not broker.real:
        pytest.skip("the embedded broker cannot do this; it needs Docker, or Java and Maven")


@pytest.fixture(scope="session")
def reaper() -> Iterator[Reaper]:
    """Ends what is registered with it when the tests end, however they do."""
    reaper = Reaper()
    yield reaper
    reaper.close()


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config, reaper: Reaper) -> str:
    """The superuser's address of the server's own database; tests take `postgres_url` or `database`."""
    return pytestconfig.stash[POSTGRES].start(reaper)


@pytest.fixture(scope="session")
def template(postgres_server: str) -> Iterator[Callable[..., Database]]:
    """Returns the database to copy for one with roles, or with `migrated=True` for one with all tables."""
    with templates(postgres_server, os.environ.get("TEST_TEMPLATE_URL")) as template:
        yield template


@pytest.fixture(scope="session")
def create_database(postgres_server: str, template: Callable[..., Database]) -> Iterator[Callable[..., Database]]:
    """Creates a fresh database, dropped when the tests end."""
    with ExitStack() as databases:

        def create(*, roles: bool = True, migrated: bool = False) -> Database:
            source = template(migrated=migrated) if roles else None
            return databases.enter_context(fresh_database(postgres_server, roles=roles, template=source))

        yield create


@pytest.fixture(scope="session")
def postgres_url(create_database: Callable[..., Database]) -> str:
    """The superuser's address of a fresh database with the deployment's roles and schemas."""
    return create_database().url


@pytest.fixture(scope="module")
def database(postgres_server: str, template: Callable[..., Database]) -> Iterator[Database]:
    """A fresh database of the module's own with the deployment's roles, and the tables of all services."""
    with fresh_database(postgres_server, template=template(migrated=True)) as database:
        yield database


@pytest.fixture(scope="session")
def kafka_bootstrap(pytestconfig: pytest.Config, reaper: Reaper) -> str:
    """The broker's address, `host:port`."""
    return pytestconfig.stash[BROKER].start(reaper)


@pytest.fixture(scope="session")
def run_stack(
    create_database: Callable[..., Database],
    kafka_bootstrap: str,
    tmp_path_factory: pytest.TempPathFactory,
    reaper: Reaper,
) -> RunStack:
    """Runs the whole product; `run_stack(auth="jwt")` asks callers for tokens."""

    def run(*, auth: str = "open") -> AbstractContextManager[Stack]:
        return running(
            create_database(migrated=True), kafka_bootstrap, tmp_path_factory.mktemp("stack"), reaper, auth=auth
        )

    return run


@pytest.fixture(scope="session")
def stack(run_stack: RunStack) -> Iterator[Stack]:
    """The whole product, stopped and seen to have stopped when the tests end."""
    with run_stack() as stack:
        yield stack


@pytest.fixture
async def shop(stack: Stack) -> AsyncIterator[Shop]:
    """Clients of the stack's services."""
    async with shopping(stack) as shop:
        yield shop
