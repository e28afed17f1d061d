"""`python -m tests.drills.cells`: runs all drills of two cells or those that are named, and prints their table."""

import sys

from tests.drills.__main__ import Group, main
from tests.drills.cells.faults import DRILLS, SHORT_DRILLS
from tests.drills.cells.platform import cells
from tests.faults.process import REPOSITORY

PAGE = REPOSITORY / "docs" / "scaling.md"
GROUPS = [Group(cells, DRILLS)]
SHORT_GROUPS = [Group(cells, SHORT_DRILLS)]

if __name__ == "__main__":
    sys.exit(main(GROUPS, SHORT_GROUPS, PAGE, program="python -m tests.drills.cells", description=__doc__))
