"""Services know each other by secrets in files, which may be replaced while they run."""

from pathlib import Path

import pytest

from shared.identity.authenticator import JwtAuthenticator
from shared.identity.callers import InvalidToken, Unauthenticated
from shared.identity.keys import IssuerKeys
from shared.identity.secrets import LINES_MAX, REREAD_FOR_UNKNOWN_SECONDS, REREAD_SECONDS, NoSecret, SecretFile
from shared.postgres.errors import explain
from tests.infrastructure.issuer import RULES

OLD, NEW, OTHER = "o" * 32, "n" * 40, "x" * 32


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "secrets"
    path.write_text(f"# of the product service\norder {OLD}\n\naudit  {OTHER}\n")
    return path


def test_secret_names_its_caller(path: Path, clock: Clock) -> None:
    secrets = SecretFile(path, clock)
    assert secrets.caller(f"Bearer {OLD}").subject == "service:order"
    assert secrets.caller(f"bearer {OTHER}").subject == "service:audit"


@pytest.mark.parametrize("secret", ["", OLD[:-1], OLD + "o", OLD.upper(), f"order {OLD}", "\udcff", "é" * 32])
def test_wrong_secret_is_refused(path: Path, clock: Clock, secret: str) -> None:
    with pytest.raises(InvalidToken):
        SecretFile(path, clock).caller(f"Bearer {secret}")


@pytest.mark.parametrize("header", [None, "", OLD, f"Basic {OLD}"])
def test_call_without_a_secret_is_unauthenticated(path: Path, clock: Clock, header: str | None) -> None:
    with pytest.raises(Unauthenticated):
        SecretFile(path, clock).caller(header)


def test_secret_is_replaced_without_an_interruption(path: Path, clock: Clock) -> None:
    server, client = SecretFile(path, clock), SecretFile(path, clock)
    assert client.credential("order") == {"Authorization": f"Bearer {OLD}"}
    server.caller(f"Bearer {OLD}")
    path.write_text(f"order {NEW}\norder {OLD}\n")
    clock.now += REREAD_FOR_UNKNOWN_SECONDS + 0.1
    assert server.caller(f"Bearer {NEW}").subject == "service:order"
    assert server.caller(client.credential("order")["Authorization"]).subject == "service:order"
    clock.now += REREAD_SECONDS + 0.1
    assert client.credential("order") == {"Authorization": f"Bearer {NEW}"}
    path.write_text(f"order {NEW}\n")
    clock.now += REREAD_SECONDS + 0.1
    with pytest.raises(InvalidToken):
        server.caller(f"Bearer {OLD}")


def test_caller_without_a_secret_can_not_call(path: Path, clock: Clock) -> None:
    with pytest.raises(NoSecret) as caught:
        SecretFile(path, clock).credential("relay")
    assert "no secret of relay" in explain(caught.value)
    assert str(path) not in str(caught.value)  # clients get it


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "order\n",
        f"order {'s' * 31}\n",
        f"Order {OLD}\n",
        f"order {OLD} more\n",
        f"order {OLD}é\n",
        "".join(f"c{number} {OLD}\n" for number in range(LINES_MAX + 1)),
    ],
)
def test_file_that_is_malformed_is_named_without_its_content(path: Path, clock: Clock, text: str) -> None:
    path.write_text(text)
    with pytest.raises(NoSecret) as caught:
        SecretFile(path, clock).read()
    assert str(path) in explain(caught.value)
    assert str(path) not in str(caught.value)
    assert OLD not in explain(caught.value)


def test_wrong_secrets_do_not_make_the_file_be_read_each_time(path: Path, clock: Clock) -> None:
    secrets = SecretFile(path, clock)
    secrets.read()
    path.unlink()
    for _ in range(1000):
        with pytest.raises(InvalidToken):
            secrets.caller(f"Bearer {NEW}")


def test_file_that_is_gone_is_named(path: Path, clock: Clock) -> None:
    secrets = SecretFile(path, clock)
    secrets.read()
    path.unlink()
    assert secrets.caller(f"Bearer {OLD}").subject == "service:order"
    clock.now += REREAD_SECONDS + 0.1
    with pytest.raises(NoSecret) as caught:
        secrets.caller(f"Bearer {OLD}")
    assert "can't be read" in explain(caught.value)


async def test_readiness_checks_the_secrets_of_a_service_that_has_some(path: Path, clock: Clock) -> None:
    async def read() -> bytes:
        raise AssertionError

    keys = IssuerKeys(read)
    assert JwtAuthenticator(RULES, keys).checks.keys() == {"tokens"}
    checks = JwtAuthenticator(RULES, keys, SecretFile(path, clock)).checks
    assert checks.keys() == {"tokens", "secrets"}
    await checks["secrets"]()
    missing = SecretFile(path.with_name("missing"), clock)
    with pytest.raises(NoSecret):
        await JwtAuthenticator(RULES, keys, missing).checks["secrets"]()
