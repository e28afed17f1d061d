"""How a run starts, and how it reports that it can't."""

import contextlib
import socket

import pytest

from shared.process.exits import Exit
from tests.infrastructure.waiting import free_port
from tests.integration.deploy_local.local_run import ELSEWHERE, LocalRun


def test_a_taken_port_is_one_line_and_nothing_is_started(local: LocalRun) -> None:
    with socket.create_server(("127.0.0.1", local.ports["coupon"])):
        status, said = local.refused()
    assert status == Exit.CANNOT_LISTEN
    port = local.ports["coupon"]
    assert said == (
        f"port {port} is taken, the coupon service needs it: stop what uses it or set COUPON_PORT to another\n"
    )
    assert not local.left()


def test_every_taken_port_is_named(local: LocalRun) -> None:
    local.settings = {"LOCAL_KAFKA_PORT": str(free_port())}
    taken = [local.ports["order"], local.admin_ports["relay"], int(local.settings["LOCAL_KAFKA_PORT"])]
    with contextlib.ExitStack() as listeners:
        for port in taken:
            listeners.enter_context(socket.create_server(("127.0.0.1", port)))
        status, said = local.refused()
    assert status == Exit.CANNOT_LISTEN
    assert [int(line.split()[1]) for line in said.splitlines()] == taken


def test_wrong_settings_are_a_line_each(local: LocalRun) -> None:
    local.settings = {"ORDER_PORT": "x", "RELAY_DATABASE_URL": "postgresql://db/relay"}
    local.folder.mkdir()
    status, said = local.refused()
    assert status == 2
    assert [line.split(":")[0] for line in said.splitlines()] == [
        "setting ORDER_PORT",
        "setting ORDER_DATABASE_URL, PRODUCT_DATABASE_URL, COUPON_DATABASE_URL, BALANCE_DATABASE_URL",
    ]


def test_a_service_that_refuses_its_settings_is_shown_and_not_tried_again(local: LocalRun) -> None:
    local.settings = ELSEWHERE | {"STAND_IN_COUPON": "exit:2"}
    status, said = local.refused()
    assert status == 2
    assert said.endswith("coupon cannot start:\nsetting COUPON_EXAMPLE: is wrong\n")
    assert local.calls("coupon") == ["migrate", "serve"]
    assert not local.left()


def test_a_service_that_keeps_failing_ends_the_run_with_the_end_of_its_log(local: LocalRun) -> None:
    local.settings = ELSEWHERE | {"STAND_IN_ORDER": "exit:1"}
    status, said = local.refused()
    assert status == 1
    assert "order ended 3 times before it was ready" in said
    assert said.endswith("  setting ORDER_EXAMPLE: is wrong\n")
    assert local.calls("order").count("serve") == 3
    assert not local.left()


def test_a_service_that_never_becomes_ready_ends_the_run(local: LocalRun) -> None:
    local.settings = ELSEWHERE | {"STAND_IN_RELAY": "unready", "LOCAL_START_SECONDS": "8"}
    status, said = local.refused()
    assert status == 1
    assert "relay was not ready after 8 s" in said
    assert not local.left()


def test_real_servers_are_used_and_none_is_embedded(local: LocalRun) -> None:
    local.settings = ELSEWHERE
    run = local.start().run_json()
    assert run["kafka"] == "127.0.0.1:2"
    assert run["database"] == "postgresql://order@127.0.0.1:1/db"
    assert local.pid("postgres") == local.pid("broker") == 0
    assert local.calls("relay") == ["migrate", "serve"]
    assert local.end() == 0


def test_demo_data_is_loaded_once_and_survives_a_restart(local: LocalRun) -> None:
    local.settings = ELSEWHERE
    local.start()
    kept = [(local.folder / f"kept-{service}").read_text() for service in ("product", "coupon", "balance")]
    assert all(kept)
    assert local.end() == 0
    local.start()
    assert [(local.folder / f"kept-{service}").read_text() for service in ("product", "coupon", "balance")] == kept
    assert "Demo data: already there" in local.output()
    assert local.end() == 0


def test_auditing_without_a_run_is_one_line(local: LocalRun) -> None:
    auditing = local.command("deploy.local.audit")
    output, _ = auditing.communicate(timeout=30)
    assert auditing.returncode == 2
    assert output == "Nothing runs here: start it with `make run` and wait until everything is running\n"


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--from-now"]])
def test_watching_without_a_run_is_one_line(local: LocalRun, arguments: list[str]) -> None:
    watching = local.command("deploy.local.watch_events", *arguments)
    output, _ = watching.communicate(timeout=30)
    assert watching.returncode == 2
    assert output == "Nothing runs here: start it with `make run` and wait until everything is running\n"
