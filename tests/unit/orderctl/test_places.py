"""Where orderctl finds the services: the environment first, otherwise the local run."""

import json
from pathlib import Path

import pytest

from deploy.orderctl.places import MisconfiguredError, Places, read

URL = "http://10.0.0.1:80"


def a_run(folder: Path) -> dict[str, str]:
    """Write the run.json of a local run; return the environment that names its folder."""
    names = ("order", "product", "coupon", "balance", "relay")
    services = {name: {"url": f"http://{name}", "admin_url": f"http://{name}-admin"} for name in names}
    (folder / "run.json").write_text(json.dumps({"services": services}))
    return {"LOCAL_DIR": str(folder)}


def test_gateway_serves_the_public_calls_and_no_others() -> None:
    assert read({"ORDERCTL_URL": URL}).urls == dict.fromkeys(("order", "product", "coupon", "balance"), URL)


def test_address_of_a_service_is_preferred_to_the_gateway() -> None:
    urls = read({"ORDERCTL_URL": URL, "ORDERCTL_COUPON_URL": "http://c", "ORDERCTL_RELAY_ADMIN_URL": "http://r"}).urls
    assert (urls["order"], urls["coupon"], urls["relay-admin"]) == (URL, "http://c", "http://r")
    assert "order-admin" not in urls


def test_local_run_is_found_where_no_address_is_set(tmp_path: Path) -> None:
    urls = read(a_run(tmp_path)).urls
    assert urls["order"] == "http://order"
    assert (urls["order-admin"], urls["relay-admin"]) == ("http://order-admin", "http://relay-admin")


def test_commands_with_cells_need_no_other_address(tmp_path: Path) -> None:
    assert read(a_run(tmp_path), beside=False).urls == read({}, beside=False).urls == {}


def test_local_run_is_not_mixed_with_addresses(tmp_path: Path) -> None:
    assert read(a_run(tmp_path) | {"ORDERCTL_ORDER_URL": URL}).urls == {"order": URL}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"services": {}}', "no JSON"])
def test_local_run_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(MisconfiguredError, match="no addresses: set ORDERCTL_URL"):
        read({"LOCAL_DIR": str(tmp_path)})


def test_address_without_a_scheme_is_named_with_its_variable() -> None:
    with pytest.raises(MisconfiguredError, match="setting ORDERCTL_ORDER_ADMIN_URL: must begin with http"):
        read({"ORDERCTL_ORDER_ADMIN_URL": "order:8011"})


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "1e3", "1_0"])
def test_deadline_that_is_no_number_is_named(text: str) -> None:
    with pytest.raises(MisconfiguredError, match="setting ORDERCTL_DEADLINE_SECONDS: "):
        read({"ORDERCTL_URL": URL, "ORDERCTL_DEADLINE_SECONDS": text})


def test_token_is_read_from_its_file_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    places = read({"ORDERCTL_URL": URL, "ORDERCTL_TOKEN_FILE": str(file), "ORDERCTL_TOKEN": "unused"})
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        assert (places.has_token, places.read_token()) == (True, token)


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"\xff\xfe"])
def test_file_without_a_token_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(MisconfiguredError, match="setting ORDERCTL_TOKEN_FILE: "):
        Places({}, token_file=tmp_path / "token").read_token()


def test_without_a_token_none_is_sent() -> None:
    assert not read({"ORDERCTL_URL": URL, "ORDERCTL_TOKEN": ""}).has_token
    assert read({"ORDERCTL_URL": URL, "ORDERCTL_TOKEN": "a"}).read_token() == "a"
