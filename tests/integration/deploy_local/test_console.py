"""The console beside the services: it gets a port that is free, and knows where they are."""

import socket
from pathlib import Path

import pytest

from deploy.console.settings import ConsoleSettings
from deploy.local.configuration import read, service_environment
from deploy.local.console import choose_port, console_environment
from deploy.local.folder import Folder
from tests.infrastructure.waiting import free_port


def test_console_keeps_its_port_unless_another_program_has_it(tmp_path: Path) -> None:
    folder, port = Folder(tmp_path), free_port()
    folder.remember(console_port=port)
    assert choose_port(read({}), folder) == port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert choose_port(read({}), folder) != port


def test_given_port_is_the_consoles_whatever_uses_it(tmp_path: Path) -> None:
    assert choose_port(read({"CONSOLE_PORT": "8099"}), Folder(tmp_path)) == 8099


@pytest.mark.parametrize(("auth", "internal"), [("open", 8003), ("jwt", 8103)])
def test_console_is_told_where_all_services_are(auth: str, internal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = read({"AUTH": auth, "ORDER_ADMIN_PORT": "9011"})
    services = service_environment(
        configuration, {}, dict.fromkeys(configuration.ports, "postgresql://x"), "kafka:9092"
    )
    for name, value in console_environment(configuration, services, 8020).items():
        monkeypatch.setenv(name, value)
    settings = ConsoleSettings()
    assert settings.auth_mode == auth
    assert settings.port == 8020
    assert settings.order_url == "http://127.0.0.1:8001"
    assert settings.relay_url == "http://127.0.0.1:8005"
    assert settings.order_admin_url == "http://127.0.0.1:9011"
    assert settings.relay_admin_url == "http://127.0.0.1:8015"
    assert settings.coupon_replicas == (f"http://127.0.0.1:{internal}",)
    assert settings.errors() == []
