"""Addresses of databases: every accepted form, and the errors of the others."""

import os
import re
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import asyncpg
import pytest
from psycopg.conninfo import make_conninfo

from shared.postgres.database_url import DatabaseUrl, Host, _check_mode, parse

SECRET = "hunter2"
TAKEN: Mapping[str, DatabaseUrl] = {
    "postgresql://h/db": DatabaseUrl((Host("h"),), database="db"),
    "postgres://u:p@h:5433/db": DatabaseUrl((Host("h", 5433),), "u", "p", "db"),
    "postgresql://u@h": DatabaseUrl((Host("h"),), "u"),
    "postgresql://u:a%40b%2Fc%3Fd%23e%25f+g@h/d%20b": DatabaseUrl((Host("h"),), "u", "a@b/c?d#e%f+g", "d b"),
    "postgresql://h1:5432,h2:5433/db": DatabaseUrl((Host("h1", 5432), Host("h2", 5433)), database="db"),
    "postgresql://u:p@h1,h2:5433/db": DatabaseUrl((Host("h1"), Host("h2", 5433)), "u", "p", "db"),
    "postgresql://[::1]:5433,[fe80::1%25eth0]/db": DatabaseUrl(
        (Host("::1", 5433), Host("fe80::1%eth0")), database="db"
    ),
    "postgresql:///db?host=h1,h2&port=5433": DatabaseUrl((Host("h1", 5433), Host("h2", 5433)), database="db"),
    "postgresql:///db?host=h1,h2&port=5433,5434": DatabaseUrl((Host("h1", 5433), Host("h2", 5434)), database="db"),
    "postgresql:///?host=::1,[::1]&dbname=db&user=u&password=a+b": DatabaseUrl(
        (Host("::1"), Host("::1")), "u", "a+b", "db"
    ),
    "postgresql://%2Fvar%2Frun%2Fpostgresql:5433/db": DatabaseUrl((Host("/var/run/postgresql", 5433),), database="db"),
    "postgresql://u@/db?host=/tmp,h": DatabaseUrl((Host("/tmp"), Host("h")), "u", None, "db"),
    "postgresql:///db": DatabaseUrl((), database="db"),
    "postgresql://": DatabaseUrl(()),
    "postgresql://:5433/db": DatabaseUrl((Host("", 5433),), database="db"),
    "postgresql:///db?port=5433": DatabaseUrl((Host("", 5433),), database="db"),
    "postgresql://h/db?target_session_attrs=read-write&sslmode=require": DatabaseUrl(
        (Host("h"),), database="db", parameters={"target_session_attrs": "read-write", "sslmode": "require"}
    ),
    "postgresql://h/db?sslmode=require&sslnegotiation=direct&ssl_min_protocol_version=TLSv1.3": DatabaseUrl(
        (Host("h"),),
        database="db",
        parameters={"sslmode": "require", "sslnegotiation": "direct", "ssl_min_protocol_version": "TLSv1.3"},
    ),
    "postgresql://h/db?sslrootcert=/a%20b.pem&sslcrl=c&sslcert=d&sslkey=e&sslpassword=f%26": DatabaseUrl(
        (Host("h"),),
        database="db",
        parameters={"sslrootcert": "/a b.pem", "sslcrl": "c", "sslcert": "d", "sslkey": "e", "sslpassword": "f&"},
    ),
    "postgresql://h/db?application_name=shop&options=-c%20work_mem%3D1MB&passfile=/x": DatabaseUrl(
        (Host("h"),),
        database="db",
        parameters={"application_name": "shop", "options": "-c work_mem=1MB", "passfile": "/x"},
    ),
}
REFUSED = {
    "mysql://h/db": "must begin with postgresql://",
    "POSTGRESQL://h/db": "must begin with postgresql://",
    "host=h dbname=db": "must begin with postgresql://",
    "": "must begin with postgresql://",
    "postgresql://h/db\n": "a space or a line break",
    "postgresql://h/d b": "a space or a line break",
    f"postgresql://u:{SECRET}#@h/db": "a # is written %23",
    f"postgresql://u:@{SECRET}@h/db": "are written %2F, %3F and %40",
    f"postgresql://u:/{SECRET}@h/db": "are written %2F, %3F and %40",
    f"postgresql://u:?{SECRET}@h/db": "are written %2F, %3F and %40",
    f"postgresql://u:{SECRET}%@h/db": "password: a % is written %25",
    f"postgresql://u:{SECRET}%00@h/db": "password: must not have a NUL",
    f"postgresql://u:{SECRET}%ff@h/db": "password: is not UTF-8",
    "postgresql://h:x/db": "port: must be a number from 1 to 65535",
    "postgresql://h:0/db": "port: must be",
    "postgresql://h:65536/db": "port: must be",
    "postgresql://h:\u0661/db": "port: must be",
    "postgresql://h:1_0/db": "port: must be",
    "postgresql:///db?host=h&port=+1": "port: must be",
    "postgresql:///db?host=h1,h2,h3&port=1,2": "port: 2 for 3 hosts",
    "postgresql://::1/db": "host: an IPv6 address is written [::1]",
    "postgresql://[::g]/db": "host: has a : in it",
    "postgresql:///db?host=h:5433": "host: has a : in it",
    "postgresql://h1,,h2/db": "host: is no host's name",
    "postgresql:///db?host=h1,": "host: is no host's name",
    "postgresql:///db?host=@abstract": "host: is no host's name",
    "postgresql:///db?host=/tmp/.s.PGSQL.5432": "host: must be the socket's folder",
    "postgresql://h/db?host=h2": "host: is given twice",
    "postgresql://h/db?port=5433": "port: is given twice",
    "postgresql://u@h/db?user=v": "user: is given twice",
    f"postgresql://u:{SECRET}@h/db?password=x": "password: is given twice",
    "postgresql://h/db?dbname=db2": "dbname: is given twice",
    "postgresql://h/db?sslmode=require&sslmode=disable": "sslmode: is given twice",
    "postgresql://h/db?sslmode=": "sslmode: has no value",
    "postgresql://h/db?sslmode": "sslmode: has no value",
    "postgresql://h/db?sslmode=on": "sslmode: must be one of disable, allow, prefer, require, verify-ca, verify-full",
    "postgresql://h/db?target_session_attrs=standby": "target_session_attrs: must be one of any, primary, read-write",
    "postgresql://h/db?sslnegotiation=direct": "sslnegotiation: direct needs sslmode=require",
    "postgresql://h/db?ssl_min_protocol_version=SSLv3": "ssl_min_protocol_version: must be one of TLSv1,",
    "postgresql://h/db?connect_timeout=5": "connect_timeout: is not known; there are application_name, dbname, host,",
    "postgresql://h/db?channel_binding=require": "channel_binding: is not known",
    "postgresql://h/db?statement_timeout=5s": "statement_timeout: is not known",
    "postgresql://h/db?hostaddr=127.0.0.1": "hostaddr: is not known",
    "postgresql://h/db?service=shop": "service: is not known",
    "postgresql://h/db?database=db": "database: is not known",
    "postgresql://h/db?SSLMODE=require": "SSLMODE: is not known",
    "postgresql://h/db?&sslmode=require": "a parameter: is not known",
}


@pytest.mark.parametrize("text", TAKEN)
def test_accepted_form_has_one_meaning(text: str) -> None:
    assert parse(text) == TAKEN[text]


@pytest.mark.parametrize("text", REFUSED)
def test_a_form_that_is_refused_names_the_fault_and_no_secret(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[text])) as refused:
        parse(text)
    assert SECRET not in str(refused.value)


def test_printed_address_has_no_password() -> None:
    assert SECRET not in repr(parse(f"postgresql://u:{SECRET}@h/db?sslpassword={SECRET}"))


@pytest.mark.parametrize("text", TAKEN)
def test_libpq_accepts_each_valid_address(text: str) -> None:
    assert "target_session_attrs=read-write" in make_conninfo(**parse(text).libpq_options())


def test_libpq_is_given_all_hosts_and_asyncpg_one_of_them() -> None:
    url = parse("postgresql://u:p@h1,[::1]:5433/db?sslmode=require&application_name=shop")
    assert url.libpq_options() == {
        "host": "h1,::1",
        "port": "5432,5433",
        "user": "u",
        "password": "p",
        "dbname": "db",
        "sslmode": "require",
        "application_name": "shop",
        "target_session_attrs": "read-write",
    }
    assert url.asyncpg_options(url.hosts[1], {"jit": "off"}) == {
        "dsn": "postgresql://?sslmode=require",
        "host": "::1",
        "port": 5433,
        "user": "u",
        "password": "p",
        "database": "db",
        "server_settings": {"application_name": "shop", "jit": "off"},
        "target_session_attrs": "any",
    }


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with cert.pem, its key key.pem, and junk.pem, which is not a certificate."""
    folder = tmp_path_factory.mktemp("certificate")
    (folder / "junk.pem").write_text("junk")
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subject = ["-subj", "/CN=localhost", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*request, *subject], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("sslrootcert={0}/cert.pem&sslmode=verify-full&sslcert={0}/cert.pem&sslkey={0}/key.pem", None),
        ("sslmode=require", None),
        ("sslmode=verify-ca", "sslmode: verify-ca needs sslrootcert"),
        ("sslrootcert={0}/gone.pem", "sslrootcert: can't be used: No such file"),
        ("sslrootcert={0}/junk.pem", "sslrootcert: can't be used"),
        ("sslrootcert=system", "sslrootcert: can't be used"),
        ("sslcrl={0}", "sslcrl: can't be used"),
        ("sslcert={0}/cert.pem", "sslcert and sslkey: each needs the other"),
        ("sslkey={0}/key.pem", "sslcert and sslkey: each needs the other"),
        ("sslcert={0}/cert.pem&sslkey={0}/gone.pem", "sslcert or sslkey: can't be used: No such file"),
        ("sslcert={0}/cert.pem&sslkey={0}/junk.pem", "sslcert or sslkey: can't be used"),
    ],
)
def test_certificates_are_tried_at_start(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, query: str, fault: str | None
) -> None:
    monkeypatch.setenv("HOME", str(certificate))
    url = parse(f"postgresql://h/db?{query.format(certificate)}")
    if fault is None:
        url.check_certificates()
        return
    with pytest.raises(ValueError, match=fault):
        url.check_certificates()


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o601])
def test_key_that_others_may_read_is_refused_as_libpq_does(certificate: Path, mode: int) -> None:
    url = parse(f"postgresql://h/db?sslcert={certificate}/cert.pem&sslkey={certificate}/key.pem")
    url.check_certificates()
    (certificate / "key.pem").chmod(mode)
    try:
        with pytest.raises(ValueError, match="sslkey: others may read it"):
            url.check_certificates()
    finally:
        (certificate / "key.pem").chmod(0o600)


@pytest.mark.parametrize(("mode", "owner", "taken"), [(0o640, 0, True), (0o640, 1000, False), (0o660, 0, False)])
def test_group_may_read_a_key_that_root_owns(*, mode: int, owner: int, taken: bool) -> None:
    found = os.stat_result((mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    with nullcontext() if taken else pytest.raises(ValueError, match="sslkey: others may read it"):
        _check_mode(found)


@pytest.mark.parametrize("place", ["PGSSLROOTCERT", "the default file"])
def test_root_certificate_may_be_given_outside_the_address(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if place == "PGSSLROOTCERT":
        monkeypatch.setenv(place, str(certificate / "cert.pem"))
    else:
        monkeypatch.delenv("PGSSLROOTCERT", raising=False)
        (tmp_path / ".postgresql").mkdir()
        (tmp_path / ".postgresql" / "root.crt").write_text((certificate / "cert.pem").read_text())
    parse("postgresql://h/db?sslmode=verify-full").check_certificates()


async def test_asyncpg_accepts_each_valid_address(certificate: Path) -> None:
    """Nothing listens there, so an error in the arguments would be raised first."""
    query = f"sslmode=verify-full&sslrootcert={certificate}/cert.pem&sslcert={certificate}/cert.pem"
    url = parse(
        f"postgresql://u:p@127.0.0.1:1/db?{query}&sslkey={certificate}/key.pem&ssl_max_protocol_version=TLSv1.3"
    )
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncpg.connect(**url.asyncpg_options(url.hosts[0], {}), timeout=5)
