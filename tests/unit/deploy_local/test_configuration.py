"""How `make run` reads the environment."""

from pathlib import Path

import pytest

from deploy.local.configuration import ROOT, SERVICES, MisconfiguredError, local_folder, read, service_environment

URLS = {f"{service.upper()}_DATABASE_URL": f"postgresql://db/{service}" for service in SERVICES}


def errors_of(environment: dict[str, str]) -> list[str]:
    with pytest.raises(MisconfiguredError) as caught:
        read(environment)
    return caught.value.lines


def test_an_empty_environment_embeds_everything_on_the_documented_ports() -> None:
    configuration = read({})
    assert configuration.ports == {"order": 8001, "product": 8002, "coupon": 8003, "balance": 8004, "relay": 8005}
    assert configuration.kafka is None
    assert not configuration.database_urls
    assert configuration.folder == ROOT / ".local"
    assert configuration.url("order") == "http://127.0.0.1:8001"
    assert configuration.admin_url("order") == "http://127.0.0.1:8011"
    assert configuration.admin_url("relay") == "http://127.0.0.1:8015"


def test_empty_variables_count_as_unset() -> None:
    assert read({"ORDER_PORT": "", "KAFKA_BOOTSTRAP_SERVERS": "", "ORDER_DATABASE_URL": ""}) == read({})


def test_every_wrong_setting_is_named_in_a_line_of_its_own() -> None:
    lines = errors_of({"ORDER_PORT": "http", "RELAY_PORT": "70000", "LOCAL_START_SECONDS": "soon"})
    assert [line.split(":")[0] for line in lines] == [
        "setting ORDER_PORT",
        "setting RELAY_PORT",
        "setting LOCAL_START_SECONDS",
    ]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "1_0", " 5", "+5", "\u0665"])
def test_a_deadline_is_a_finite_time_above_zero(value: str) -> None:
    assert len(errors_of({"LOCAL_START_SECONDS": value})) == 1


def test_two_services_cannot_have_the_same_port() -> None:
    (line,) = errors_of({"COUPON_PORT": "8001"})
    assert line == "setting COUPON_PORT: 8001 is also ORDER_PORT; every port can be used once"


def test_the_operators_port_is_checked_like_the_others() -> None:
    (line,) = errors_of({"ORDER_ADMIN_PORT": "8002"})
    assert line == "setting ORDER_ADMIN_PORT: 8002 is also PRODUCT_PORT; every port can be used once"
    (line,) = errors_of({"ORDER_ADMIN_PORT": "0"})
    assert line.startswith("setting ORDER_ADMIN_PORT: must be a port")


def test_some_database_urls_without_the_others_name_the_missing_ones() -> None:
    environment = {name: url for name, url in URLS.items() if name not in ("COUPON_DATABASE_URL", "RELAY_DATABASE_URL")}
    (line,) = errors_of(environment)
    assert line.startswith("setting COUPON_DATABASE_URL, RELAY_DATABASE_URL: not set")


def test_migrations_use_the_services_urls_unless_others_are_given() -> None:
    migrators = {f"MIGRATE_{name}": f"{url}_m" for name, url in URLS.items()}
    assert read(URLS).migrator_urls == read(URLS).database_urls
    assert set(read(URLS | migrators).migrator_urls.values()) == set(migrators.values())
    (line,) = errors_of({name: url for name, url in migrators.items() if "ORDER" in name})
    assert "MIGRATE_RELAY_DATABASE_URL: not set" in line


def test_a_wrong_database_url_is_named_without_its_password() -> None:
    (line,) = errors_of(URLS | {"ORDER_DATABASE_URL": "mysql://user:secret@host/db"})
    assert line == "setting ORDER_DATABASE_URL: must begin with postgresql://"
    (line,) = errors_of(URLS | {"ORDER_DATABASE_URL": "postgresql://user:secret@host/db?connect_timeout=5"})
    assert line.startswith("setting ORDER_DATABASE_URL: connect_timeout: is not known")
    assert "secret" not in line


def test_a_database_url_may_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "address"
    path.write_text("postgresql://user:secret@host/db\n")
    environment = {name: url for name, url in URLS.items() if name != "ORDER_DATABASE_URL"}
    environment["ORDER_DATABASE_URL_FILE"] = str(path)
    urls = read(environment).database_urls
    assert urls["order"] == "postgresql://user:secret@host/db"
    assert "ORDER_DATABASE_URL_FILE" not in service_environment(read(environment), environment, urls, "127.0.0.1:9")
    path.write_text("")
    assert errors_of(environment) == [f"setting ORDER_DATABASE_URL: {path} is empty"]


def test_the_local_folder_can_be_elsewhere(tmp_path: Path) -> None:
    assert local_folder({"LOCAL_DIR": str(tmp_path)}) == tmp_path


def test_services_get_the_addresses_of_database_kafka_and_participants() -> None:
    configuration = read({"PRODUCT_PORT": "9002", "PRODUCT_HOST": "0.0.0.0"})
    urls = {service: f"postgresql://{service}" for service in SERVICES}
    environment = service_environment(configuration, {"PATH": "/bin"}, urls, "127.0.0.1:9")
    assert environment["PATH"] == "/bin"
    assert environment["ORDER_PRODUCT_URL"] == "http://127.0.0.1:9002"
    assert environment["PRODUCT_PORT"] == "9002"
    assert (environment["ORDER_ADMIN_PORT"], environment["RELAY_ADMIN_PORT"]) == ("8011", "8015")
    assert environment["PRODUCT_HOST"] == "0.0.0.0"
    assert environment["RELAY_DATABASE_URL"] == "postgresql://relay"
    assert environment["KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:9"


def test_a_participants_url_from_the_environment_is_kept() -> None:
    urls = dict.fromkeys(SERVICES, "postgresql://")
    inherited = {"ORDER_PRODUCT_URL": "http://gateway/product"}
    environment = service_environment(read({}), inherited, urls, "")
    assert environment["ORDER_PRODUCT_URL"] == "http://gateway/product"


def test_product_shards_from_the_environment_take_the_place_of_the_product_service() -> None:
    urls = dict.fromkeys(SERVICES, "postgresql://")
    environment = service_environment(read({}), {"ORDER_PRODUCT_URLS": "http://a http://b"}, urls, "")
    assert "ORDER_PRODUCT_URL" not in environment


def test_an_ipv6_host_is_bracketed_in_its_url() -> None:
    assert read({"ORDER_HOST": "::1"}).url("order") == "http://[::1]:8001"
