"""`make manifest-rules`: writes the alerts of deploy/prometheus as a resource of the Prometheus operator."""

from tests.manifests.rendering import KUBERNETES, REPOSITORY

RULES = REPOSITORY / "deploy" / "prometheus" / "rules"
FILE = KUBERNETES / "overlays" / "production" / "platform" / "prometheusrule.yaml"
HEAD = """\
# The rules of deploy/prometheus for the Prometheus operator. `make manifest-rules` writes this file: don't edit it.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: order-platform
  labels: {app.kubernetes.io/part-of: order-platform}
spec:
  groups:
"""


def text() -> str:
    """Return the resource. The rules are copied as text, which keeps their form and their comments."""
    parts = [HEAD]
    for file in sorted(RULES.glob("*.yml")):
        comments, groups = file.read_text().split("groups:\n")
        parts += [f"    {line}" for line in comments.splitlines(keepends=True)]
        parts += [f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True)]
    return "".join(parts)


if __name__ == "__main__":
    FILE.write_text(text())
