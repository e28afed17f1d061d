"""`python -m deploy.grafana FOLDER`: write each dashboard as JSON into the folder."""

import sys
from pathlib import Path

from deploy.grafana.generator import written
from deploy.grafana.panels import PAGES


def main() -> None:
    """Write the files, and remove those of dashboards that are gone."""
    folder = Path(sys.argv[1])
    for old in folder.glob("*.json"):
        old.unlink()
    for page in PAGES:
        (folder / f"{page.name}.json").write_text(written(page))


if __name__ == "__main__":
    main()
