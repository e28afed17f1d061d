"""The values of deploy/ha fit each other, and `make ha` gives every server what its file expects."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from deploy.ha import programs
from deploy.ha.programs import ETCD_ENV, HAPROXY_CFG, MEMBERS, PASSWORDS, PATRONI_YML, STRICT_YML, Layout, variables
from tests.drills.failover.faults import PAUSED_SECONDS, TTL_SECONDS


@pytest.fixture
def dynamic() -> dict[str, Any]:
    """What is kept in etcd."""
    found: dict[str, Any] = yaml.safe_load(PATRONI_YML.read_text())["bootstrap"]["dcs"]
    return found


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A cluster of two members on a machine that has every program."""
    monkeypatch.setattr(programs, "find", lambda program: f"/bin/{program}")
    ports = {name: 1000 + number for number, name in enumerate(programs.port_names(2))}
    return Layout(tmp_path, MEMBERS[:2], ports, dict.fromkeys(PASSWORDS, "secret"), Path("/binaries"))


def test_times_of_patroni_fit_each_other_and_an_election_of_etcd(dynamic: dict[str, Any]) -> None:
    assert dynamic["loop_wait"] + 2 * dynamic["retry_timeout"] <= dynamic["ttl"]
    # Candidates wait for one to two election timeouts, so an election ends within two.
    assert 2 * int(variables(ETCD_ENV)["ETCD_ELECTION_TIMEOUT"]) / 1000 < dynamic["retry_timeout"]
    silent = dynamic["postgresql"]["parameters"]["wal_sender_timeout"]
    assert int(silent.removesuffix("s")) < dynamic["ttl"]


def test_drills_know_the_time_after_which_another_member_is_primary(dynamic: dict[str, Any]) -> None:
    assert dynamic["ttl"] == TTL_SECONDS < PAUSED_SECONDS


def test_replication_is_synchronous_and_strict_only_where_a_standby_may_be_lost(dynamic: dict[str, Any]) -> None:
    strict = yaml.safe_load(STRICT_YML.read_text())
    assert (dynamic["synchronous_mode"], dynamic["synchronous_mode_strict"]) == (True, False)
    # The standby that has more is promoted: one that is ahead of a new primary would count as a copy of its commits.
    assert (strict["synchronous_mode"], strict["synchronous_mode_strict"]) == ("quorum", True)
    assert dynamic["postgresql"]["parameters"]["synchronous_commit"] == "on"


def test_haproxy_gets_every_address_and_checks_each_member_at_its_own_port(layout: Layout) -> None:
    environment = layout.haproxy().environment
    text = HAPROXY_CFG.read_text()
    assert set(re.findall(r"^  presetenv (\w+) ", text, re.M)) <= environment.keys()
    servers = re.findall(r'^  server \S+ "\$(\w+)" check port "\$(\w+)"$', text, re.M)
    assert [(environment[address], environment[check]) for address, check in servers] == [
        (layout.address("postgres-1"), str(layout.ports["postgres-1-patroni"])),
        (layout.address("postgres-2"), str(layout.ports["postgres-2-patroni"])),
        ("127.0.0.1:1", "1"),
    ]


def test_servers_do_not_inherit_the_settings_of_other_programs(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPASSWORD", "PATRONI_SCOPE", "ETCD_NAME"):
        monkeypatch.setenv(name, "of another program")
    for program in (layout.etcd("etcd-1"), layout.patroni("postgres-1"), layout.haproxy()):
        assert "of another program" not in program.environment.values()


def test_machine_without_programs_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(programs, "ENVIRONMENT", tmp_path)
    monkeypatch.setattr(programs, "_which", lambda _program: None)
    monkeypatch.setattr(programs, "postgres_binaries", lambda: None)
    assert programs.missing() == [
        "Programs are missing. Debian, Ubuntu: apt-get install etcd-server haproxy postgresql",
        "Patroni is missing: make environment-ha",
    ]
