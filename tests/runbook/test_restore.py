"""The runbook's commands for a restore run while customers buy: the short form of the drill that executes them."""

import subprocess
import sys

import pytest

from tests.drills.restore import LOST, steps
from tests.infrastructure.broker import why_no_maven
from tests.infrastructure.missing import cannot_run
from tests.runbook.blocks import REPOSITORY

SECONDS = 280


@pytest.mark.timeout(SECONDS + 10)
def test_services_are_restored_to_different_times_with_the_commands_of_the_runbook() -> None:
    if obstacle := why_no_maven():
        cannot_run(f"a restore, with a Kafka that stays: {obstacle}")
    command = [sys.executable, "-m", "tests.drills", "--short", "restore-moments"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_of_the_section_is_a_step_of_the_drill() -> None:
    assert len(steps()) == LOST + 1
