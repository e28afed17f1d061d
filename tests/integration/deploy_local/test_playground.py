"""The playground serves only its own pages, breaks what it shows, and every fault ends."""

import asyncio
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from deploy.local.playground.books import Books
from deploy.local.playground.faults import Fault, Faults, ImpossibleError, Kind
from deploy.local.playground.health import Health
from deploy.local.probes import true
from deploy.local.processes import Child
from deploy.local.supervisor import Part
from tests.infrastructure.waiting import eventually, wait_until
from tests.integration.deploy_local.local_run import LocalRun

SECONDS = 30


class Visitor:
    """A browser that shows the playground of a run."""

    def __init__(self, run: LocalRun) -> None:
        self.url = str(run.run_json()["playground"])
        with urllib.request.urlopen(self.url, timeout=SECONDS) as answer:
            self.cookie = answer.headers["Set-Cookie"].split(";")[0]
            self.policy = answer.headers["Content-Security-Policy"]
            self.page = answer.read().decode()
        self.own = {"Origin": self.url, "Cookie": self.cookie, "X-Part": "yes"}

    def post(self, path: str, headers: Mapping[str, str], **form: str) -> int:
        """Send a form with its token; return the status."""
        [token, *_] = re.findall(r'name="form_token" value="([^"]+)"', self.page)
        body = urllib.parse.urlencode({"form_token": token, **form}).encode()
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self.url + path, body, dict(headers)), timeout=SECONDS
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def visitor(running: LocalRun) -> Visitor:
    """A browser at a run that stays."""
    return Visitor(running)


def test_page_has_a_policy_without_unsafe(visitor: Visitor) -> None:
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in visitor.policy
    assert "unsafe" not in visitor.policy
    assert not re.search(r"<style|<script>|\son\w+=|\sstyle=", visitor.page)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Host": "shop.example:8021"}, 421),
        ({"Origin": "http://shop.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # another port of this machine
        ({"Cookie": ""}, 403),
        ({"Cookie": "playground-id=another"}, 403),
    ],
)
def test_page_of_elsewhere_breaks_nothing(
    running: LocalRun, visitor: Visitor, changed: Mapping[str, str], status: int
) -> None:
    before = running.pid("coupon")
    assert visitor.post("/break", {**visitor.own, **changed}, part="coupon", kind="kill") == status
    assert visitor.post("/break", visitor.own, part="coupon", kind="kill", form_token="wrong") == 403
    assert running.pid("coupon") == before
    assert psutil.Process(before).status() != psutil.STATUS_STOPPED


def test_language_is_the_browsers_until_the_visitor_chooses_one(visitor: Visitor) -> None:
    def page(**headers: str) -> str:
        with urllib.request.urlopen(urllib.request.Request(visitor.url, headers=headers), timeout=SECONDS) as answer:
            return str(answer.read().decode())

    assert '<html lang="en"' in page()
    assert "모든 장부 비교" in page(**{"Accept-Language": "ko-KR,ko;q=0.9"})
    assert '<html lang="en"' in page(**{"Accept-Language": "ko", "Cookie": "playground-language=en"})
    # The part that replaces itself is in the same language; an unknown one is none.
    part = page(Cookie="playground-language=ko")
    assert ('<html lang="ko"' in part, "실행 중" in part) == (True, True)
    assert '<html lang="en"' in page(Cookie="playground-language=xx")


@pytest.mark.parametrize(("language", "kept"), [("ko", "ko"), ("xx", None)])
def test_chosen_language_is_kept_in_a_cookie(visitor: Visitor, language: str, kept: str | None) -> None:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    token = re.findall(r'name="form_token" value="([^"]+)"', visitor.page)[0]
    body = urllib.parse.urlencode({"form_token": token, "language": language, "customer": "bob"}).encode()
    request = urllib.request.Request(f"{visitor.url}/language", body, visitor.own)
    with pytest.raises(urllib.error.HTTPError) as answered:
        urllib.request.build_opener(Stay).open(request, timeout=SECONDS)
    with answered.value as answer:
        assert (answer.code, answer.headers["Location"]) == (303, "/?customer=bob")
        cookie = answer.headers["Set-Cookie"] or ""
    assert (f"playground-language={kept}" in cookie and "SameSite=Strict" in cookie) is (kept is not None)


@pytest.mark.parametrize("headers", [{"Host": "shop.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_page_of_elsewhere_reads_nothing(visitor: Visitor, headers: Mapping[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(
            urllib.request.Request(f"{visitor.url}/platform", headers=dict(headers)), timeout=SECONDS
        )


@pytest.mark.parametrize(("part", "kind", "status"), [("coupon", "explode", 400), ("supervisor", "kill", 200)])
def test_what_can_not_be_broken_is_refused(
    running: LocalRun, visitor: Visitor, part: str, kind: str, status: int
) -> None:
    assert visitor.post("/break", visitor.own, part=part, kind=kind) == status
    assert running.process is not None
    assert running.process.poll() is None


def test_paused_service_stands_still_until_it_is_undone(running: LocalRun, visitor: Visitor) -> None:
    service = psutil.Process(running.pid("product"))
    assert visitor.post("/break", visitor.own, part="product", kind="pause") == 200
    wait_until(lambda: service.status() == psutil.STATUS_STOPPED, SECONDS, "the pause")
    assert visitor.post("/undo", visitor.own, part="product") == 200
    wait_until(lambda: service.status() != psutil.STATUS_STOPPED, SECONDS, "its end")
    wait_until(lambda: "ready" in running.output().rpartition("pause product")[2], SECONDS, "readiness")
    assert running.pid("product") == service.pid


def test_stopped_broker_and_database_return_with_what_needs_them(running: LocalRun, visitor: Visitor) -> None:
    for server in ("broker", "postgres"):
        before = running.pid(server)
        assert visitor.post("/break", visitor.own, part=server, kind="stop") == 200
        wait_until(lambda old=before: not psutil.pid_exists(old), SECONDS, f"the stop of {server}")  # type: ignore[misc]
        assert visitor.post("/undo", visitor.own, part=server) == 200
        said = f"stop {server}"
        wait_until(lambda said=said: "everything is ready" in running.output().rpartition(said)[2], SECONDS, said)  # type: ignore[misc]
        assert running.pid(server) not in (0, before)
    # A new broker has lost everything, so the relay has declared it again.
    assert running.calls("relay")[-2:] == ["bootstrap", "serve"]


def test_broker_that_returns_before_the_database_is_declared_later(running: LocalRun, visitor: Visitor) -> None:
    def said() -> str:
        return running.output().rpartition("stop broker")[2]

    refuses = running.folder / "refuses-relay"  # as its bootstrap does while the database is away
    refuses.touch()
    try:
        assert visitor.post("/break", visitor.own, part="broker", kind="stop") == 200
        assert visitor.post("/undo", visitor.own, part="broker") == 200
        wait_until(lambda: "relay bootstrap ended with status 1" in said(), SECONDS, "a bootstrap that fails")
        assert "everything is ready" not in said()
    finally:
        refuses.unlink()
    wait_until(lambda: "everything is ready" in said(), SECONDS, "readiness")
    assert "The relay knows its broker" in said()
    assert running.calls("relay")[-2:] == ["bootstrap", "serve"]


def test_run_ends_in_time_while_a_service_is_paused(local: LocalRun) -> None:
    visitor = Visitor(local.start())
    service = psutil.Process(local.pid("balance"))
    assert visitor.post("/break", visitor.own, part="balance", kind="pause") == 200
    wait_until(lambda: service.status() == psutil.STATUS_STOPPED, SECONDS, "the pause")
    assert local.end() == 0
    assert "did not stop in time" not in local.output()
    assert local.left() == []


def test_run_without_demo_data_has_no_playground(local: LocalRun) -> None:
    local.program = (*local.program, "--no-demo")
    assert local.start().run_json()["playground"] is None


async def a_part(folder: Path, name: str = "coupon") -> Part:
    """Return a process that waits, under this name."""
    log = folder / "log"

    async def start() -> Child:
        return await Child.start([sys.executable, "-c", "import signal; signal.pause()"], log)

    part = Part(name, start, true, print, lambda: None, log)
    await part.bring_up(SECONDS)
    return part


async def test_pause_ends_by_itself(tmp_path: Path) -> None:
    part = await a_part(tmp_path)
    faults = Faults({"coupon": part}, print, longest_seconds=0.2)
    fault = faults.begin("coupon", Kind.PAUSE)
    process = psutil.Process(part.pid)

    async def stands() -> bool:
        return process.status() == psutil.STATUS_STOPPED

    async def is_back() -> bool:
        return fault.back is not None

    await eventually(stands, SECONDS, "the pause")
    await eventually(is_back, SECONDS, "its end")
    assert process.status() != psutil.STATUS_STOPPED
    assert (fault.is_held, faults.any_live) == (False, False)
    await part.stop(SECONDS)


async def test_one_process_has_one_fault_at_a_time(tmp_path: Path) -> None:
    part = await a_part(tmp_path)
    faults = Faults({"coupon": part}, print)
    health = Health(faults)
    faults.begin("coupon", Kind.PAUSE)
    await health.look()
    assert health.states["coupon"].word == "paused"
    for kind in (Kind.PAUSE, Kind.KILL, Kind.STOP):
        with pytest.raises(ImpossibleError):
            faults.begin("coupon", kind)
    await faults.close()
    await part.stop(SECONDS)
    await health.look()
    assert health.states["coupon"].word == "down"


async def test_killed_process_is_back_when_the_supervisor_has_restarted_it(tmp_path: Path) -> None:
    part = await a_part(tmp_path)
    keeping = asyncio.create_task(part.keep())
    faults, old = Faults({"coupon": part}, print), part.pid
    fault: Fault = faults.begin("coupon", Kind.KILL)

    async def is_back() -> bool:
        return fault.back is not None

    await eventually(is_back, SECONDS, "the restart")
    assert part.pid not in (old, None)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await part.stop(SECONDS)


def books(folder: Path, code: str, now: list[float]) -> Books:
    """Return books whose audit is this program."""
    return Books([sys.executable, "-c", code], lambda: {**os.environ, "AUDITS": str(folder / "audits")}, lambda: now[0])


async def looked(books: Books) -> None:
    """Wait until the audit that is under way has ended."""

    async def has_ended() -> bool:
        return not books.is_looking

    await eventually(has_ended, SECONDS, "the audit")


@pytest.mark.parametrize(
    ("status", "report", "clean", "text"),
    [
        (0, {"clean": True, "orders": 8, "violations": 0, "under_way": 0, "findings": []}, True, "✓ 8 orders"),
        (1, {}, None, "The audit can't look now: the database is away"),
    ],
)
async def test_verdict_is_what_the_audit_says(
    tmp_path: Path, status: int, report: Mapping[str, object], clean: bool | None, text: str
) -> None:
    code = f"import sys, json; print(json.dumps({report!r})); print('the database is away', file=sys.stderr)"
    code += f"; sys.exit({status})"
    audit = books(tmp_path, code, [0.0])
    audit.begin()
    await looked(audit)
    assert audit.last is not None
    assert audit.last.clean is clean
    assert audit.last.text.startswith(text)


async def test_audit_is_repeated_while_something_is_broken_and_once_after_it(tmp_path: Path) -> None:
    now, file = [0.0], tmp_path / "audits"
    file.touch()
    audit = books(tmp_path, "import os; open(os.environ['AUDITS'], 'a').write('.'); raise SystemExit('no')", now)
    for at, broken, ended_at, audits in [
        (0, False, None, 0), (1, True, None, 1), (2, True, None, 1), (12, True, None, 2), (13, False, 12.5, 3),
        (40, False, 12.5, 3), (42, False, 41.5, 4), (43, False, 41.5, 4),
    ]:  # fmt: skip
        now[0] = at
        audit.follow(broken=broken, ended_at=ended_at)
        await looked(audit)
        assert len(file.read_text()) == audits, at
