"""Every command line refuses a wrong argument with status 2 and one line that names the error."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import deploy.console.__main__ as console
import deploy.orderctl.__main__ as orderctl
import services.order.admin.__main__ as order_admin
import services.relay.admin.__main__ as relay_admin
from deploy.local import __main__ as local
from deploy.local import audit, broker, clean, consume, repair, watch_events
from services.relay import schemas
from services.relay.settings import RelaySettings
from shared.process.main import Service, main

REPOSITORY = Path(__file__).parents[2]
ID = "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11"
WHY = ("--reason", "a test")
NUMBERS = ("inf", "-inf", "nan", "1e400", "-1", "1_0", "+1", " 1", "1 ", "0x1", "\u0661", "", "ten", "1\n")
INTEGERS = (*NUMBERS, "0", "1.0", "1e2")
IDS = ("", "x", f"urn:uuid:{ID}", f"{{{ID}}}", ID.replace("-", ""), f"{ID}0", f" {ID}", "../..")
TIMESTAMPS = ("", "0", "now", "20300101", "1893456000", "2030-01-01", "2030-01-01T00:00:00", "2030-13-01T00:00:00Z")
TEXTS = ("", "x" * 300, "a\nb", "a\x1b[2J", "\udcff")
NAMES = ("", "a b", "a/b", "x" * 300, "orders\n", "\udcff")


def service() -> None:
    """The command line that all services share."""

    async def serve(_settings: RelaySettings, _stop: object) -> None:
        raise AssertionError

    async def bootstrap(_settings: RelaySettings) -> int:
        raise AssertionError

    main(Service("relay", RelaySettings, "relay", Path("nowhere"), serve, {"bootstrap": bootstrap}))


def environment() -> None:
    """Return the script that creates virtual environments; it belongs to no package."""
    spec = importlib.util.spec_from_file_location("environment_script", REPOSITORY / "deploy" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main()


WRONG: dict[Callable[[], None], list[tuple[str, ...]]] = {
    order_admin.main: [
        (),
        ("nothing",),
        ("list", "extra"),
        *(("list", f"--older-than={text}") for text in (*NUMBERS, "1e10")),
        *(("list", "--state", text) for text in ("", "nothing", "running")),
        *(("drain-status", f"--version={text}") for text in INTEGERS),
        *((act, text, *WHY) for act in ("retry", "force", "resolve") for text in IDS),
        *(("show", text) for text in IDS),
        ("retry", *WHY),
        ("retry", ID, "--all", *WHY),
        ("retry", ID),
        *(("force", ID, "--reason", text) for text in TEXTS),
        *(("force", ID, "--by", text, *WHY) for text in TEXTS),
        *(("repair", "--reason", text) for text in TEXTS),
        ("audit", "extra"),
        ("acts", "--limit", "1"),
    ],
    relay_admin.main: [
        (),
        ("nothing",),
        *((act, text, *WHY) for act in ("retry", "skip", "redact", "cancel", "resume") for text in IDS),
        ("retry", *WHY),
        ("retry", ID, "--all", *WHY),
        *(("skip", ID, "--reason", text) for text in TEXTS),
        *(("replay", text, *WHY, "--order", ID) for text in NAMES),
        *(("replay", "again", *WHY, "--order", text) for text in IDS),
        *(("replay", "again", *WHY, "--type", text) for text in (*TEXTS, "order.paid", "order.paid.v1 ")),
        *(("replay", "again", *WHY, option, text) for option in ("--from", "--to") for text in TIMESTAMPS),
    ],
    orderctl.main: [
        ("nothing",),
        ("sagas", "list", "extra"),
        *(("sagas", "list", f"--older-than={text}") for text in ("-1", "", "ten")),
        ("sagas", "list", "--state", "running"),
        *(("sagas", act, ID) for act in ("retry", "force", "resolve")),
        ("sagas", "retry", *WHY),
        ("sagas", "retry", ID, "--all", *WHY),
        *(("sagas", "versions", f"--version={text}") for text in ("0", "-1", "1.0", "ten")),
        *(("orders", "place", text) for text in ("keyboard=", "keyboard=-1", "keyboard=1_0", "keyboard=1.0")),
        ("orders", "place", "keyboard=1", "keyboard=2"),
        ("orders", "list", "--limit=0"),
        ("orders", "list", "--status=paid"),
        *(("stock", act, "keyboard", text) for act in ("add", "take") for text in ("0", "-1", "1.5", "ten")),
        ("stock", "change", "keyboard"),
        ("coupons", "give", "TEN", "alice"),
        ("coupons", "give", "TEN", "alice", "--fixed=1", "--percent=1"),
        ("coupons", "give", "TEN", "alice", "--percent=101"),
        ("accounts", "charge", "alice", "0"),
        ("outbox", "skip", ID),
        ("replays", "start", "again"),
        ("audit", "extra"),
        ("repair", *WHY, "--restored=relay"),
        ("completion", "ksh"),
    ],
    service: [
        ("nothing",),
        ("",),
        ("--version",),
        ("migrate", "--dry-run"),
        ("serve", "extra"),
        ("serve", "--port", "1"),
        ("bootstrap", "--force"),
    ],
    broker.main: [
        *((f"--port={text}",) for text in (*NUMBERS, "65536", "99999", "1.0")),
        *(("--topic", text) for text in ("", "x", "x:", ":1", "x:0", "x:-1", "x:1_0", "x:1001", "x:99999999999")),
        *(("--topic", f"{name}:1") for name in (*NAMES, ".", "..")),
        ("extra",),
    ],
    local.main: [("extra",), ("--demo",)],
    watch_events.main: [("extra",), ("--from", "now")],
    audit.main: [("extra",), ("--json", "extra")],
    console.main: [("extra",), ("--port", "1")],
    clean.main: [("--dry-run",), ("extra",)],
    consume.main: [("--json",), ("extra",)],
    schemas.main: [(), ("/dev/null/nowhere",), ("one", "two"), ("--nothing",)],
    environment: [(), ("one",), ("one", "two", "three")],
}


@pytest.mark.parametrize(("main", "arguments"), [(main, arguments) for main in WRONG for arguments in WRONG[main]])
def test_a_wrong_argument_is_a_line_and_status_2(
    main: Callable[[], None],
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    monkeypatch.setenv("LOCAL_DIR", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    *usage, line = capfd.readouterr().err.rstrip("\n").split("\n")
    assert "Traceback" not in line
    assert len(line) > 10
    assert usage == [] or usage[0].startswith("usage: ")
    assert all(further.startswith(" ") for further in usage[1:])


@pytest.mark.parametrize("main", [watch_events.main, consume.main, audit.main, repair.main])
def test_impossible_folder_counts_as_not_running(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setenv("LOCAL_DIR", "/dev/null/nowhere")
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capfd.readouterr().err.count("\n")) == (2, 1)


def test_path_that_is_no_folder_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setenv("LOCAL_DIR", "/dev/null")
    with pytest.raises(SystemExit) as ended:
        clean.main()
    assert "/dev/null" in str(ended.value.code)
