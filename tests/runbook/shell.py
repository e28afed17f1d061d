"""Runs blocks of commands with bash, one after the other; what one assigns, the next ones see."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.infrastructure.broker import java
from tests.infrastructure.postgres import packaged_binaries, system_binaries
from tests.runbook.blocks import REPOSITORY, Block

BLOCK_SECONDS = 90
# Kafka's tools by the names of its scripts.
KAFKA_TOOLS = {
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
    "kafka-acls.sh": "kafka.admin.AclCommand",
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
}


class Shell:
    """A folder with deploy/ in it, as in the ops image, and the variables that the runbook names."""

    def __init__(self, folder: Path, variables: Mapping[str, str], python: str) -> None:
        self._folder = folder
        self._state = folder / "state"
        self._state.touch()
        for name, target in {"deploy": "deploy", "docs": "docs", "consumer": "deploy/consumer"}.items():
            (folder / name).symlink_to(REPOSITORY / target)
        programs = folder / "programs"
        programs.mkdir()
        commands = {name: f"{' '.join(java('128m'))} {main}" for name, main in KAFKA_TOOLS.items()}
        for name, command in {**commands, "python": python}.items():
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            script.chmod(0o755)
        path = [str(programs), os.environ["PATH"]]
        if shutil.which("psql") is None:
            path.append(str(system_binaries() or packaged_binaries()))
        self._environment = {**os.environ, **variables, "PYTHONPATH": str(REPOSITORY), "PATH": ":".join(path)}

    def set(self, variables: Mapping[str, str]) -> None:
        """Set variables for the next blocks."""
        with self._state.open("a") as state:
            state.writelines(f"export {name}={value!r}\n" for name, value in variables.items())

    async def run(self, block: Block, seconds: float = BLOCK_SECONDS) -> str:
        """Run a block; return its output. Fails if its exit status or its output is not the documented one."""
        keep = f'trap \'declare -px | grep -v " BASH\\| SHELLOPTS\\| _=" >"{self._state}"\' EXIT'
        script = f'source "{self._state}"\nset -o allexport -o nounset -o errexit -o pipefail\n{keep}\n{block.code}'
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", script],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        shown = f"{block.name}\n{block.code}\n{done.stdout}\n{done.stderr}"
        assert done.returncode in block.statuses, f"status {done.returncode}, not {block.statuses}: {shown}"
        assert block.output in done.stdout, f"no {block.output!r}: {shown}"
        return done.stdout
