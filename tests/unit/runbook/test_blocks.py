"""The runbook's commands stand in blocks that a test can run."""

import re

from tests.runbook.blocks import PAGES, all_blocks, blocks
from tests.runbook.situations import SITUATIONS

# What begins a command in a block of the old form, indented by four columns.
COMMAND = re.compile(r"^ {4,}(?:python -m|docker|psql|curl|kafka-|\$compose|deploy/|export )", re.M)
NOT_HERE_MAX = 12  # a block that no test runs goes stale; say why before raising it


def test_block_has_its_section_its_code_and_what_its_comments_say() -> None:
    page = (
        "# Page\n## One\ntext\n<!-- run: after a saga is stuck -->\n<!-- run: output x y -->\n```sh\necho\n```\n"
        "## Two\n1. Do:\n\n   <!-- run: exit 0 or 3 -->\n   ```sh\n   a \\\n     b\n   ```\n```text\nno\n```\n"
        "<!-- run: not here: no engine -->\n```sql\nSELECT 1\n```\n"
    )
    one, two, three = blocks("page", page)
    assert (one.section, one.after, one.output, one.statuses, one.code) == (
        "One",
        "a saga is stuck",
        "x y",
        (0,),
        "echo\n",
    )
    assert (two.section, two.number, two.statuses, two.code) == ("Two", 1, (0, 3), "a \\\n  b\n")
    assert (three.number, three.not_here, three.runs_here) == (2, "no engine", False)


def test_no_command_stands_outside_of_a_block_that_is_run() -> None:
    for page in PAGES:
        outside = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
        assert COMMAND.findall(outside) == [], page


def test_every_situation_is_known_and_few_blocks_are_left_out() -> None:
    found = all_blocks()
    assert {block.after for block in found if block.after} == SITUATIONS.keys()
    assert len([block for block in found if block.not_here]) <= NOT_HERE_MAX
    assert all(block.language == "sh" for block in found if block.runs_here)
