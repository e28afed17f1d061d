"""How `make ha` refuses settings that can't work, and which ports it gives to its servers."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.ha.programs import ETCDS, HAPROXY, MEMBERS, peer_port, port_names
from deploy.ha.stack import FIRST_PORT, choose_ports
from deploy.local.configuration import read
from deploy.local.supervisor import StartError
from shared.process.exits import Exit
from tests.ha.ha_run import HaRun, quiet_ports
from tests.infrastructure.missing import cannot_run
from tests.infrastructure.own_ha import why_not

NAMES = port_names(len(MEMBERS))


@pytest.fixture
def ha(tmp_path: Path) -> Iterator[HaRun]:
    """A `make ha` that must not start."""
    if why := why_not():
        cannot_run(why)
    run = HaRun(tmp_path / "local")
    yield run
    run.clean_up()


@pytest.fixture
def remembered() -> dict[str, int]:
    """The ports of a last run."""
    return dict(zip(NAMES, quiet_ports(len(NAMES)), strict=True))


def test_wrong_settings_are_a_line_each(ha: HaRun) -> None:
    ha.settings = {"STANDBYS": "3", "ORDER_DATABASE_URL": "postgresql://db/orders", "RELAY_DATABASE_URL_FILE": "/x"}
    assert ha.refused() == (
        Exit.MISCONFIGURED,
        "setting STANDBYS: must be 1 or 2 (got '3')\n"
        "setting ORDER_DATABASE_URL, RELAY_DATABASE_URL: this starts a Postgres of its own; unset it\n",
    )


def test_wanted_port_that_is_taken_is_one_line_and_nothing_is_started(ha: HaRun) -> None:
    (port,) = quiet_ports(1)
    ha.settings = {"LOCAL_POSTGRES_PORT": str(port)}
    with socket.create_server(("127.0.0.1", port)):
        status, said = ha.refused()
    assert status == Exit.CANNOT_LISTEN
    assert said == f"port {port} is taken, Postgres needs it: stop what uses it or set LOCAL_POSTGRES_PORT to another\n"
    assert not ha.left()


def test_no_two_servers_get_the_same_port(tmp_path: Path) -> None:
    wanted = {"LOCAL_POSTGRES_PORT": str(FIRST_PORT + 1), "ORDER_PORT": str(FIRST_PORT + 2)}
    chosen = choose_ports(read(wanted), {}, tmp_path)
    assert chosen[HAPROXY] == FIRST_PORT + 1
    assert FIRST_PORT + 2 not in chosen.values()
    assert len(set(chosen.values())) == len(NAMES)


def test_ports_of_the_last_run_are_kept_but_for_a_taken_one(tmp_path: Path, remembered: dict[str, int]) -> None:
    (tmp_path / ETCDS[0]).mkdir()
    with socket.create_server(("127.0.0.1", remembered[peer_port("etcd-2")])):
        chosen = choose_ports(read({}), remembered, tmp_path)
    assert [name for name in NAMES if chosen[name] != remembered[name]] == [peer_port("etcd-2")]


@pytest.mark.parametrize("has_data", [True, False])
def test_etcds_that_lose_two_ports_can_only_start_without_data(
    tmp_path: Path, remembered: dict[str, int], has_data: bool
) -> None:
    if has_data:
        (tmp_path / ETCDS[0]).mkdir()
    names = [peer_port("etcd-1"), peer_port("etcd-3")]
    with ExitStack() as listeners:
        for name in names:
            listeners.enter_context(socket.create_server(("127.0.0.1", remembered[name])))
        if not has_data:
            assert all(choose_ports(read({}), remembered, tmp_path)[name] != remembered[name] for name in names)
            return
        with pytest.raises(StartError) as refused:
            choose_ports(read({}), remembered, tmp_path)
    assert refused.value.status == Exit.CANNOT_LISTEN
    assert [int(line.split()[1]) for line in refused.value.lines] == [remembered[name] for name in names]
