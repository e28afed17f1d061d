"""Every command of the runbook runs, in its order, against the running platform."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infrastructure.databases import LOGINS, PASSWORD
from tests.infrastructure.missing import cannot_run
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.stack import REPOSITORY, SERVICES, RunStack, Stack, shopping
from tests.infrastructure.waiting import free_port, listens, wait_until
from tests.runbook.blocks import Block, all_blocks, sections
from tests.runbook.shell import Shell
from tests.runbook.situations import SITUATIONS, healed

START_SECONDS = 60
SECTIONS = sections()
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def platform(run_stack: RunStack) -> Iterator[Stack]:
    """A platform of its own, because commands of the runbook change its data."""
    with run_stack() as stack:
        yield stack


@pytest.fixture(scope="module")
def variables(platform: Stack, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of docs/runbook.md, as `ops.env` has them."""
    database = platform.database
    urls = {service.upper(): platform.url(service) for service in SERVICES}
    found = {
        **urls,
        **{f"ORDER_{name}_URL": urls[name] for name in ("PRODUCT", "COUPON", "BALANCE")},
        "ORDER_DATABASE_URL": database.as_role("order_service"),
        "ORDER_MIGRATOR_URL": database.as_role("order_migrator"),
        "RELAY_DATABASE_URL": database.as_role("relay_service"),
        "KAFKA_BOOTSTRAP_SERVERS": platform.kafka,
        "READER": database.as_role("services_reader"),
        "MONITOR": database.as_role("services_monitor"),
        "ADMIN": database.url,
        "OPERATOR": "a-test",
        "RELAY_TOPIC": platform.topic,
        "CONSUMER_TOPIC": platform.topic,
    }
    folder = tmp_path_factory.mktemp("beside")
    return found | _consumer(platform, found, reaper) | _prometheus(urls, reaper, folder)


def _consumer(platform: Stack, found: dict[str, str], reaper: Reaper) -> dict[str, str]:
    port = free_port()
    environment = {
        **os.environ,
        "CONSUMER_PORT": str(port),
        "CONSUMER_RELAY_URL": found["RELAY"],
        "KAFKA_BOOTSTRAP_SERVERS": platform.kafka,
        "CONSUMER_TOPIC": platform.topic,
    }
    command = [sys.executable, "-m", "deploy.consumer"]
    migrator = {"CONSUMER_DATABASE_URL": platform.database.as_role("platform_migrator")}
    quiet = {"cwd": REPOSITORY, "stdout": subprocess.DEVNULL}
    subprocess.run([*command, "migrate"], env=environment | migrator, check=True, **quiet)  # type: ignore[call-overload]
    environment["CONSUMER_DATABASE_URL"] = platform.database.as_role("platform_consumer")
    reaper.process(subprocess.Popen(command, env=environment, start_new_session=True, **quiet))  # type: ignore[call-overload]
    wait_until(lambda: listens("127.0.0.1", port), START_SECONDS, "the consumer")
    return {"CONSUMER": f"http://127.0.0.1:{port}", "CONSUMER_DATABASE_URL": environment["CONSUMER_DATABASE_URL"]}


def _prometheus(urls: dict[str, str], reaper: Reaper, folder: Path) -> dict[str, str]:
    """Start Prometheus, if it is installed."""
    program = shutil.which("prometheus")
    if program is None:
        return {}
    jobs = "".join(
        f"- job_name: {name.lower()}\n  static_configs:\n  - targets: ['{url.removeprefix('http://')}']\n"
        for name, url in urls.items()
    )
    configuration = folder / "prometheus.yml"
    configuration.write_text(f"global:\n  scrape_interval: 1s\nscrape_configs:\n{jobs}")
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={configuration}", f"--storage.tsdb.path={folder}", f"--web.listen-address={address}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    reaper.process(subprocess.Popen([program, *options], **quiet))  # type: ignore[call-overload]
    wait_until(lambda: listens("127.0.0.1", int(address.rpartition(":")[2])), START_SECONDS, "Prometheus")
    return {"PROMETHEUS": f"http://{address}"}


@pytest.mark.parametrize("section", SECTIONS)
async def test_commands_of_a_section_do_what_it_says(
    section: str, platform: Stack, variables: dict[str, str], tmp_path: Path
) -> None:
    shell = Shell(tmp_path, variables, sys.executable)
    passwords = "".join(f"{login.upper()}_PASSWORD={PASSWORD}\n" for login in LOGINS)
    (tmp_path / "passwords.env").write_text(passwords)
    async with shopping(platform) as shop:
        try:
            for block in SECTIONS[section]:
                if lacks := missing(block, variables):
                    cannot_run(f"{block.name}: {lacks} is not installed")
                if block.after:
                    shell.set(await SITUATIONS[block.after](platform, shop))
                await shell.run(block)
        finally:
            await healed(platform)


def missing(block: Block, variables: dict[str, str]) -> str:
    """Return the program that a block needs and this machine lacks."""
    if "$PROMETHEUS" in block.code and "PROMETHEUS" not in variables:
        return "prometheus"
    programs = ["curl", "jq", *(["java"] if "kafka-" in block.code else [])]
    return next((one for one in programs if one in block.code or one == "java" if shutil.which(one) is None), "")


def test_every_block_that_another_test_runs_names_that_test(capsys: pytest.CaptureFixture[str]) -> None:
    named = {block.by for block in all_blocks() if block.by}
    assert [path for path in named if not (REPOSITORY / path).exists()] == []
    left_out = [block for block in all_blocks() if block.not_here]
    with capsys.disabled():
        print(f"\n{len(left_out)} blocks of the runbook can't run here:")
        print("".join(f"  {block.name}: {block.not_here}\n" for block in left_out))
