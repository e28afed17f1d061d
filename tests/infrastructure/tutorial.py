"""Does what a page tells its reader to do, in a copy of the repository: saves files, runs commands, compares output.

A block of Python with a title is saved under it. A block of `sh` is run. A block of `text` is what the commands before
it print; `…` in it stands for any text. A comment `<!-- run: … -->` before a block of `sh` says more:

    beside Ctrl-C   it runs beside the others, until the block with `last`
    until TEXT      Ctrl-C is pressed once it has printed this
    output TEXT     it must print this
    last            first, Ctrl-C ends what runs beside
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import wait_until
from tests.runbook.blocks import FENCE, REPOSITORY

COMMENT = re.compile(r"<!-- run: (beside|until|output|last)(?: (.*?))? -->")
# What a reader's clone has, and a run needs.
COPIED = ("Makefile", "deploy", "services", "shared")
STEP_SECONDS = 60
STOP_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Step:
    """One block of the page."""

    language: str
    title: str
    code: str
    said: Mapping[str, str]


def steps(page: Path) -> Iterator[Step]:
    """Yield the blocks of a page, in order."""
    for match in FENCE.finditer(page.read_text()):
        said = dict(COMMENT.findall(match["comment"]))
        assert len(said) == match["comment"].count("<!--"), match["comment"]
        yield Step(match["language"], match["title"] or "", match["code"], said)


def shows(output: str, text: str) -> bool:
    """Return whether an output has the lines of a `text` block."""
    pattern = re.escape(text.rstrip("\n")).replace("…", ".*?")
    return re.search(rf"^{pattern}$", output, re.M) is not None


def clone(folder: Path, python: str) -> Path:
    """Copy the repository's files as they are now, with an environment that counts as installed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *COPIED],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (REPOSITORY / name).is_file():
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((REPOSITORY / name).read_bytes())
    environment = folder / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "installed.lock").write_bytes((REPOSITORY / "deploy/local/requirements.lock").read_bytes())
    script = environment / "bin" / "python"
    script.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    script.chmod(0o755)
    return folder


class Reader:
    """A person at two terminals, in the folder of a clone."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], addresses: Mapping[str, str], reaper: Reaper
    ) -> None:
        """`addresses`: what to put in place of addresses that the page names, because others may use these."""
        self._folder = folder
        self._environment = environment
        self._addresses = addresses
        self._reaper = reaper
        self._beside: list[subprocess.Popen[bytes]] = []
        self.output = ""

    def do(self, step: Step) -> None:
        """Do what a block says. Fails if the output is not the page's."""
        if step.title:
            (self._folder / step.title).write_text(self._here(step.code))
        elif step.language == "text":
            assert shows(self.output, step.code), f"{self.output}\nis not as the page says:\n{step.code}"
        else:
            assert step.language == "sh", step
            self._run(step)

    def _run(self, step: Step) -> None:
        if "last" in step.said:
            for process in self._beside:
                os.killpg(process.pid, signal.SIGINT)
                process.wait(STOP_SECONDS)
        log = self._folder / f"terminal-{time.monotonic_ns()}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"set -o errexit -o pipefail\n{self._here(step.code)}"],
                cwd=self._folder,
                env=dict(self._environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._reaper.process(process)
        if "beside" in step.said:
            self._beside.append(process)
            ready = self._folder / ".local" / "run.json"
            wait_until(lambda: ready.exists() or process.poll() is not None, STEP_SECONDS, "the platform")
            assert process.poll() is None, log.read_text()
            return
        if text := step.said.get("until"):
            wait_until(lambda: text in log.read_text() or process.poll() is not None, STEP_SECONDS, f"{text} in {log}")
            assert text in log.read_text(), log.read_text()
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            process.wait(STOP_SECONDS)
        else:
            assert process.wait(STEP_SECONDS) == 0, log.read_text()
        self.output = log.read_text()
        assert step.said.get("output", "") in self.output, self.output

    def _here(self, code: str) -> str:
        for named, used in self._addresses.items():
            code = code.replace(named, used)
        return code
