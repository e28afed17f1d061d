"""The commands of the runbook's section on restores are the steps of two drills, which `make drills` runs."""

from tests.drills.restore import LOST, steps


def test_every_command_of_the_section_is_a_step_of_the_drill() -> None:
    assert len(steps()) == LOST + 1
