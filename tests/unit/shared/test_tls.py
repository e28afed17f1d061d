"""TLS contexts follow their files, keep the last usable ones, and name the peer. The handshakes are in memory."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY

from shared import tls
from shared.tls import TlsFiles
from tests.infrastructure.authority import CLIENT, SERVER, Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(autouse=True)
def files_are_looked_at_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def handshake(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return both ends of a connection. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up, server_hostname=name)]
    pending = dict.fromkeys(ends, True)
    for _ in range(10):
        for end in reversed(ends):
            if pending[end]:
                try:
                    end.do_handshake()
                    pending[end] = False
                except ssl.SSLWantReadError:
                    pass
    # With TLS 1.3 a client learns with the first bytes whether its certificate was accepted.
    ends[0].write(b"x")
    assert ends[1].read(1) == b"x"
    return ends[0], ends[1]


def a_client(authority: Authority, *own: str) -> ssl.SSLContext:
    """Return the context of a client that trusts the authority."""
    certificate, key = own or (None, None)
    context = tls.client(TlsFiles(certificate, key, str(authority.file)))()
    assert isinstance(context, ssl.SSLContext)
    return context


def serial(client: ssl.SSLObject) -> object:
    """Return the serial number of the server's certificate."""
    certificate = client.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]


def test_server_uses_replaced_files_in_the_next_handshake(authority: Authority, logs: list[Any]) -> None:
    server, client = tls.server(TlsFiles(*authority.issue("server"))), a_client(authority)
    _, before = handshake(server, client)
    _, same = handshake(server, client)
    assert serial(before) == serial(same)
    authority.issue("server")
    _, after = handshake(server, client)
    assert serial(after) != serial(before)
    assert [line["event"] for line in logs] == ["tls_files.reloaded"]
    server_end, client_end = handshake(server, client)
    server_end.write(b"x")
    assert client_end.read(1) == b"x"


def test_client_without_a_server_name_gets_the_replaced_files_as_well(authority: Authority) -> None:
    server = tls.server(TlsFiles(*authority.issue("server")))
    client = a_client(authority)
    client.check_hostname = False
    _, before = handshake(server, client, None)
    authority.issue("server")
    _, after = handshake(server, client, None)
    assert serial(after) != serial(before)


@pytest.mark.parametrize("broken", ["missing", "empty", "other key", "password"])
def test_broken_replacement_keeps_the_old_files_and_is_logged_once(
    authority: Authority, logs: list[Any], broken: str
) -> None:
    certificate, key = authority.issue("server")
    server, client = tls.server(TlsFiles(certificate, key)), a_client(authority)
    _, before = handshake(server, client)
    if broken == "missing":
        Path(certificate).unlink()
    elif broken == "empty":
        Path(certificate).write_text("")
    elif broken == "other key":
        Path(authority.issue("other")[1]).rename(key)
    else:
        authority.issue("server", password=b"secret")
    for _ in range(3):
        assert serial(handshake(server, client)[1]) == serial(before)
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("tls_files.unusable", "error")
    assert certificate in line["detail"] or "password" in line["detail"]
    unusable = "tls_files_unusable", {"files": f"{certificate} {key}"}
    assert REGISTRY.get_sample_value(*unusable) == 1
    authority.issue("server")
    assert serial(handshake(server, client)[1]) != serial(before)
    assert REGISTRY.get_sample_value(*unusable) == 0


def test_metric_has_the_time_until_the_certificate_in_use_expires(authority: Authority) -> None:
    certificate, key = authority.issue("server", days=1)
    tls.server(TlsFiles(certificate, key))

    def valid_days() -> float:
        return (REGISTRY.get_sample_value("tls_certificate_valid_seconds", {"file": certificate}) or 0) / 86_400

    assert valid_days() == pytest.approx(1, abs=0.01)
    authority.issue("server", days=3)
    assert valid_days() == pytest.approx(3, abs=0.01)
    authority.issue("server", days=-1)
    assert valid_days() == pytest.approx(-1, abs=0.01)


def test_client_certificate_is_optional_and_names_the_caller(authority: Authority) -> None:
    files = TlsFiles(*authority.issue("server"), authorities=str(authority.file))
    server = tls.server(files)
    anonymous, _ = handshake(server, a_client(authority))
    assert not anonymous.getpeercert()
    known, _ = handshake(server, a_client(authority, *authority.issue("order", ["order"], usage=CLIENT)))
    assert tls.names(known.getpeercert() or {}) == ["order"]


@pytest.mark.parametrize("wrong", ["stranger", "expired", "server"])
def test_client_certificate_that_is_not_valid_ends_the_handshake(
    authority: Authority, tmp_path: Path, wrong: str
) -> None:
    server = tls.server(TlsFiles(*authority.issue("server"), authorities=str(authority.file)))
    own = {
        "stranger": lambda: Authority(tmp_path, "stranger").issue("order", ["order"]),
        "expired": lambda: authority.issue("order", ["order"], days=-1),
        "server": lambda: authority.issue("order", ["order"], usage=SERVER),
    }[wrong]()
    with pytest.raises(ssl.SSLError):
        handshake(server, a_client(authority, *own))


def test_replaced_authorities_of_clients_count_from_the_next_handshake(authority: Authority, tmp_path: Path) -> None:
    server = tls.server(TlsFiles(*authority.issue("server"), authorities=str(authority.file)))
    client = a_client(authority, *authority.issue("order", ["order"]))
    _, first = handshake(server, client)
    assert first.session is None or not first.session.has_ticket  # which would skip the check
    trusted = authority.file.read_bytes()
    authority.file.write_bytes(Authority(tmp_path, "successor").file.read_bytes())
    with pytest.raises(ssl.SSLError):
        handshake(server, client)
    authority.file.write_bytes(trusted)
    handshake(server, client)


def test_client_follows_its_files(authority: Authority, tmp_path: Path) -> None:
    server = tls.server(TlsFiles(*authority.issue("server"), authorities=str(authority.file)))
    own = authority.issue("order", ["order"])
    context = tls.client(TlsFiles(*own, authorities=str(authority.file)))
    assert context() is context()
    handshake(server, context())  # type: ignore[arg-type]
    Authority(tmp_path, "stranger").issue("order", ["order"])
    with pytest.raises(ssl.SSLError):
        handshake(server, context())  # type: ignore[arg-type]


def test_client_without_files_trusts_the_machines_authorities() -> None:
    assert tls.client(TlsFiles())() is True


def test_client_with_a_certificate_only_trusts_the_machines_authorities(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    context = tls.client(TlsFiles(*authority.issue("client")))()
    assert isinstance(context, ssl.SSLContext)
    handshake(tls.server(TlsFiles(*authority.issue("server"))), context)


def test_client_with_authorities_trusts_no_others(authority: Authority, tmp_path: Path) -> None:
    server = tls.server(TlsFiles(*Authority(tmp_path, "stranger").issue("server")))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, a_client(authority))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_versions_before_1_2_are_refused(authority: Authority, version: ssl.TLSVersion) -> None:
    server, client = tls.server(TlsFiles(*authority.issue("server"))), a_client(authority)
    client.minimum_version, client.maximum_version = version, version
    client.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        handshake(server, client)


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        ({"subject": ((("commonName", "order"),),)}, ["order"]),
        ({"subject": ((("commonName", "order"),),), "subjectAltName": (("DNS", "audit"),)}, ["audit"]),
        ({"subjectAltName": (("URI", "spiffe://shop/order"), ("IP Address", "::1"))}, ["spiffe://shop/order"]),
        ({"subject": ((("organizationName", "order"),),)}, []),
        ({}, []),
    ],
)
def test_names_are_the_alternative_ones_or_else_the_common_one(certificate: Any, expected: list[str]) -> None:
    assert tls.names(certificate) == expected


def test_wrong_files_are_refused_at_start(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    for pair in ((certificate, None), (None, key)):
        with pytest.raises(ValueError, match="both or neither"):
            tls.check_pair(*pair)
    with pytest.raises(ValueError, match="can't be used"):
        tls.check_pair(certificate, authority.issue("other")[1])
    with pytest.raises(ValueError, match="can't be read"):
        tls.check_pair(certificate, str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="password"):
        tls.check_pair(*authority.issue("secret", password=b"secret"))
    for content in ("", "no certificate"):
        (tmp_path / "wrong").write_text(content)
        with pytest.raises(ValueError, match="can't be used"):
            tls.check_authorities(str(tmp_path / "wrong"))
