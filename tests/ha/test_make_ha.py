"""How `make ha` starts, continues on its data, and ends."""

import contextlib
import signal
import socket
from collections.abc import Iterable, Iterator

import psutil
import pytest

from deploy.ha.programs import ETCDS, HAPROXY, MEMBERS, patroni_port, peer_port
from shared.process.exits import Exit
from tests.ha.ha_run import HaRun
from tests.infrastructure.waiting import wait_until

pytestmark = pytest.mark.timeout(600)  # up to three starts
FOLLOW_SECONDS = 60
STRICT = "synchronous_mode_strict: true"


def test_it_sells_stops_at_ctrl_c_and_continues_on_its_data(ha: HaRun) -> None:
    ha.start()
    first = ha.buy()
    assert f":{ha.server_ports[HAPROXY]}/" in ha.run_json()["database"]
    assert sorted(ha.members().values()) == ["Leader", "Sync Standby"]
    primary = ha.leader()
    ha.patronictl("switchover", "--force")
    assert ha.leader() != primary
    wait_until(lambda: "Sync Standby" in ha.members().values(), FOLLOW_SECONDS, "the former primary in sync")
    assert ha.end(signal.SIGINT) == 0
    assert not ha.left()
    assert ha.output().endswith("Everything has stopped\n")
    ha.start()
    assert ha.status(first) == "PAID"
    assert ha.status(ha.buy()) == "PAID"


def test_the_number_of_standbys_may_change_between_runs(ha: HaRun) -> None:
    ha.with_stand_ins().standbys(2).start()
    ha.write(1)
    assert STRICT in ha.patronictl("show-config")
    # The primary is the member that the next run shall not have.
    _make_primary(ha, "postgres-3")
    ha.write(2)
    assert ha.end() == 0
    ha.standbys(1).start()
    wait_until(lambda: sorted(ha.members()) == ["postgres-1", "postgres-2"], FOLLOW_SECONDS, "the end of its key")
    assert STRICT not in ha.patronictl("show-config")
    ha.write(3)
    assert ha.end() == 0
    ha.standbys(2).start()
    assert STRICT in ha.patronictl("show-config")
    wait_until(lambda: ha.followers() == 2, FOLLOW_SECONDS, "the third member")
    assert ha.kept() == [1, 2, 3]


@pytest.mark.parametrize("until", ["etcd is ready", "Postgres is ready"])
def test_ctrl_c_during_the_start_leaves_nothing(ha: HaRun, until: str) -> None:
    ha.with_stand_ins().begin()
    wait_until(lambda: until in ha.output(), ha.start_seconds, until)
    assert ha.end(signal.SIGINT) == 0
    assert not ha.left()


def test_killed_supervisor_leaves_no_process(ha: HaRun) -> None:
    ha.with_stand_ins().start()
    ha.write(1)
    assert ha.process is not None
    ha.process.kill()
    ha.process.wait()
    wait_until(lambda: not ha.left(), ha.stop_seconds, "nothing left")
    ha.start()
    assert ha.kept() == [1]


def test_run_after_a_kill_ends_what_could_not_end_by_itself(ha: HaRun) -> None:
    ha.with_stand_ins().start()
    ha.write(1)
    primary = psutil.Process(ha.pid(ha.leader()))
    # Paused processes can't handle the signal that the kernel sends at the supervisor's death.
    stuck = [primary, *primary.children(recursive=True), psutil.Process(ha.pid("etcd-1"))]
    for process in stuck:
        process.suspend()
    assert ha.process is not None
    ha.process.kill()
    ha.process.wait()
    ha.start()
    assert not [process for process in stuck if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert ha.kept() == [1]
    assert ha.end() == 0
    assert not ha.left()


def test_taken_port_of_the_last_run_is_replaced(ha: HaRun) -> None:
    ha.with_stand_ins().start()
    ha.write(1)
    assert ha.end() == 0
    before = ha.server_ports
    names = {HAPROXY, *MEMBERS, *map(patroni_port, MEMBERS), *ETCDS, peer_port("etcd-2")}
    with _taken(before[name] for name in names):
        ha.start()
        after = ha.server_ports
        assert {name for name in before if before[name] != after[name]} == names
        # The other two know its new port. Without that it works as long as only one has moved, and does not lead.
        assert ha.peer_urls("etcd-1") == {f"http://127.0.0.1:{after[peer_port(etcd)]}" for etcd in ETCDS}
        assert ha.kept() == [1]
        ha.write(2)
        assert ha.end() == 0
    ha.start()
    assert ha.server_ports == after
    assert ha.kept() == [1, 2]


def test_two_taken_ports_between_etcds_are_a_line_each(ha: HaRun) -> None:
    ha.with_stand_ins().start()
    ha.write(1)
    assert ha.end() == 0
    before = ha.server_ports
    with _taken(before[peer_port(etcd)] for etcd in ("etcd-1", "etcd-3")):
        status, said = ha.refused()
    assert status == Exit.CANNOT_LISTEN
    assert said.splitlines()[-2:] == [
        f"port {before[peer_port(etcd)]} is taken, {etcd} needs it: stop what uses it (only one of the three etcds can"
        " get another port)"
        for etcd in ("etcd-1", "etcd-3")
    ]
    assert not ha.left()
    ha.start()
    assert ha.server_ports == before
    assert ha.kept() == [1]


@contextlib.contextmanager
def _taken(ports: Iterable[int]) -> Iterator[None]:
    """Listen on ports, as another program would."""
    with contextlib.ExitStack() as listeners:
        for port in ports:
            listeners.enter_context(socket.create_server(("127.0.0.1", port)))
        yield


def _make_primary(ha: HaRun, member: str) -> None:
    """Move the primary, once the member may become it."""

    def moved() -> bool:
        if ha.leader() != member:
            ha.patronictl("switchover", "--candidate", member, "--force")
        return ha.leader() == member

    wait_until(moved, FOLLOW_SECONDS, f"{member} as primary")
