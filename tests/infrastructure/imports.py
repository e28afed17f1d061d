"""What a folder that users copy imports."""

import ast
import sys
from pathlib import Path


def imported_by(folder: Path) -> set[str]:
    """Return the packages that its modules import by full names, without those of Python."""
    names: set[str] = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(str(node.module))
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
