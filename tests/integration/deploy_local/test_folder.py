"""The files of the local folder."""

import json
import stat
from pathlib import Path

import pytest

from deploy.local.folder import AlreadyRunningError, Folder, NotRunningError

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "local")
    folder.create()
    return folder


def test_only_one_holds_the_folder(folder: Folder) -> None:
    with folder.locked():
        assert folder.is_locked()
        with pytest.raises(AlreadyRunningError, match=r"^\d+$"), folder.locked():
            pass
    assert not folder.is_locked()


def test_only_folder_of_a_run_may_be_removed(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not folder.may_be_removed()
    with folder.locked():
        pass
    assert folder.may_be_removed()
    monkeypatch.setenv("HOME", str(folder.path / "home"))
    assert not folder.may_be_removed()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Folder(tmp_path / "other" / ".local").may_be_removed()


def test_checkout_and_what_it_is_in_may_not_be_removed() -> None:
    for path in (REPOSITORY, REPOSITORY.parent, Path("/")):
        assert not Folder(path).may_be_removed()


def test_a_password_stays_the_same_and_differs_between_roles(folder: Folder) -> None:
    password = folder.password("order_service")
    assert Folder(folder.path).password("order_service") == password
    assert folder.password("relay_service") != password


def test_remembered_values_are_extended(folder: Folder) -> None:
    folder.remember(kafka_port=1)
    folder.remember(postgres_port=2)
    assert folder.remembered() == {"kafka_port": 1, "postgres_port": 2}


def test_files_with_secrets_are_for_their_owner_only(folder: Folder) -> None:
    folder.write_run({"database": "postgresql://user:secret@host/db"})
    assert stat.S_IMODE(folder.run_json.stat().st_mode) == 0o600


def test_run_json_counts_only_while_a_run_holds_the_folder(folder: Folder) -> None:
    run = {"kafka": "127.0.0.1:9"}
    folder.write_run(run)
    with pytest.raises(NotRunningError):
        folder.read_run()
    with folder.locked():
        assert folder.read_run() == run


def test_a_damaged_file_counts_as_empty(folder: Folder) -> None:
    (folder.path / "remembered.json").write_text('{"kafka_po')
    assert folder.remembered() == {}


def test_new_logs_do_not_overwrite_those_of_the_previous_run(folder: Folder) -> None:
    folder.log("order").write_text("before")
    folder.start_logs(["order", "relay"])
    assert (folder.logs / "order.log.1").read_text() == "before"
    assert not folder.log("order").exists()


def test_run_json_is_json(folder: Folder) -> None:
    folder.write_run({"services": {"order": {"pid": 1}}})
    assert json.loads(folder.run_json.read_text()) == {"services": {"order": {"pid": 1}}}
