"""kube-score finds nothing in the manifests, except what is listed here with its reason."""

import subprocess
from collections.abc import Collection

import pytest

from tests.manifests.rendering import rendered
from tests.manifests.test_valid import OLDEST
from tests.manifests.tools import KUBE_SCORE, go_tool

# Checks that kube-score makes only if it is asked to.
ADDITIONAL = ("container-ports-check", "container-seccomp-profile")
# By what is applied together. The policies of the platform are part of it, so no service is checked without them.
IGNORED = {
    "overlays/small": {
        "container-image-pull-policy": "A version is pushed once; otherwise no pod would start without the registry.",
        "deployment-replicas": "It has one replica of each service on purpose.",
    },
    "overlays/production": {
        "container-image-pull-policy": "As above.",
        "deployment-has-host-podantiaffinity": "Topology spread constraints do the same, for nodes and zones.",
    },
    "overlays/production overlays/draining/order": {
        "container-image-pull-policy": "As above.",
        "deployment-has-host-podantiaffinity": "As above.",
        "deployment-strategy": "Recreate: two at a time would open twice the connections to Postgres.",
        "deployment-replicas": "One replica continues the sagas that are left, and nobody calls it.",
    },
}
CASES = [(roots, check) for roots, checks in IGNORED.items() for check in checks]


def findings(roots: str, ignored: Collection[str]) -> list[str]:
    """Return what kube-score finds in folders that are applied together."""
    # Without a limit of CPU, a burst may use the idle cores of its node.
    options = ["--ignore-container-cpu-limit", "--output-format", "ci", "--kubernetes-version", f"v{OLDEST}"]
    options += [option for check in ignored for option in ("--ignore-test", check)]
    options += [option for check in ADDITIONAL for option in ("--enable-optional-test", check)]
    everything = "---\n".join(rendered(root) for root in roots.split())
    command = [str(go_tool(KUBE_SCORE)), "score", *options, "-"]
    result = subprocess.run(command, input=everything, capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    assert any(line.startswith("[OK]") for line in lines)
    return [line for line in lines if not line.startswith(("[OK]", "[SKIPPED]"))]


@pytest.mark.parametrize("roots", IGNORED)
def test_the_linter_finds_nothing(roots: str) -> None:
    assert findings(roots, IGNORED[roots]) == []


@pytest.mark.parametrize(("roots", "check"), CASES)
def test_no_check_is_ignored_without_need(roots: str, check: str) -> None:
    assert findings(roots, [one for one in IGNORED[roots] if one != check])
