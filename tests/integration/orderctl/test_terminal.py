"""What a person sees at a terminal: tables, colour, questions, completion."""

import asyncio
import os
import pty
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.orderctl.places import ROOT
from shared.process.exits import Exit
from tests.infrastructure.orderctl import all_at, orderctl
from tests.integration.client.samples import ORDER_ID, an_order
from tests.integration.client.server import Server, answer, misbehaving

SECONDS = 30


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    """Serve what the test tells, as all services."""
    async with misbehaving() as server:
        yield server


def at_a_terminal(settings: dict[str, str], *arguments: str, typed: str = "") -> tuple[int, str]:
    """Run a command at a terminal of its own, type something, and return its status and what the terminal showed."""
    ours, its = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                shown.append(data)
        except OSError:  # the last process at the terminal has ended
            pass

    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.orderctl", *arguments],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", **settings},
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    reader = threading.Thread(target=read)
    reader.start()
    os.write(ours, typed.encode())
    status = process.wait(SECONDS)
    reader.join(SECONDS)
    os.close(ours)
    return status, b"".join(shown).decode()


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what switches colours off or on."""
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("colours")
async def test_terminal_has_colours_unless_they_are_switched_off(server: Server) -> None:
    page = answer(200, {"items": [an_order()], "next_cursor": None})
    server.will(page, page)
    for settings, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        status, shown = await asyncio.to_thread(at_a_terminal, all_at(server.url) | settings, "orders", "list")
        assert status == Exit.DONE
        assert ORDER_ID in shown
        assert ("\x1b[32mPAID" in shown) is coloured


@pytest.mark.usefixtures("colours")
async def test_verdict_of_the_audit_has_its_colour(server: Server) -> None:
    server.will(answer(200, {"clean": True, "orders": 8, "under_way": 0, "violations": 0, "findings": []}))
    status, shown = await asyncio.to_thread(at_a_terminal, all_at(server.url), "audit")
    assert status == Exit.DONE
    assert "\x1b[32m✓\x1b[0m 8 orders, 0 findings" in shown


@pytest.mark.parametrize(("typed", "status", "calls"), [("y\n", Exit.DONE, 1), ("n\n", Exit.FAILED, 0), ("\n", 1, 0)])
async def test_act_that_can_t_be_taken_back_is_asked_about(server: Server, typed: str, status: int, calls: int) -> None:
    server.will(*[answer(200, {"sagas": [ORDER_ID], "dry_run": False})] * calls)
    act = ("sagas", "resolve", ORDER_ID, "--reason", "a test", "--by", "tester")
    ended, shown = await asyncio.to_thread(at_a_terminal, all_at(server.url), *act, typed=typed)
    assert f"End saga {ORDER_ID} without its undos?" in shown
    assert (ended, len(server.received)) == (status, calls)
    assert ("nothing was done" in shown) is (calls == 0)


@pytest.mark.parametrize("option", ["--yes", "--dry-run"])
async def test_nothing_is_asked_where_it_was_said(server: Server, option: str) -> None:
    server.will(answer(200, {"events": [], "dry_run": option == "--dry-run"}))
    act = ("outbox", "skip", ORDER_ID, "--reason", "a test", "--by", "tester", option)
    status, shown = await asyncio.to_thread(at_a_terminal, all_at(server.url), *act)
    assert (status, "?" in shown) == (Exit.DONE, False)


async def test_shell_completes_commands_and_options() -> None:
    for words, found in (("orderctl sa", "plain,sagas"), ("orderctl sagas force --dr", "plain,--dry-run")):
        settings = {"_ORDERCTL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        completed = await orderctl(settings)
        assert (completed.status, completed.out) == (Exit.DONE, f"{found}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    printed = await orderctl({}, "completion", shell)
    assert printed.status == Exit.DONE
    assert f"_ORDERCTL_COMPLETE={shell}_complete" in printed.out
