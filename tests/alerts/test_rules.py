"""The rules are valid; each alert fires at its fault, alone, and none fires while everything is well."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.alerts import rules
from tests.alerts.series import FIRING, MINUTES, NORMAL, SILENT, Case

FIRES = 'max by (alertname) (ALERTS{alertstate="firing"})'


def as_test(case: Case) -> dict[str, object]:
    """Return a case as promtool takes it: at the end exactly these alerts fire."""
    series = {name: values for name, values in {**NORMAL, **case.instead}.items() if name not in case.without}
    return {
        "name": case.name,
        "interval": "30s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": FIRES,
                "eval_time": f"{MINUTES}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(case.alerts)],
            }
        ],
    }


def run(cases: Sequence[Case], folder: Path) -> str:
    """Have promtool run the cases, and return what it finds wrong."""
    file = folder / "tests.yml"
    tests = {
        "rule_files": [str(path) for path in rules.RULES],
        "evaluation_interval": "30s",
        "tests": [as_test(case) for case in cases],
    }
    file.write_text(yaml.safe_dump(tests))
    done = rules.promtool("test", "rules", file)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_rules_and_configuration_are_valid() -> None:
    for kind, files in (("rules", rules.RULES), ("config", [rules.FOLDER / "prometheus.yml"])):
        done = rules.promtool("check", kind, *files)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)  # promtool needs a third of a second for each case
@pytest.mark.parametrize("cases", [FIRING, SILENT], ids=["faults", "no fault"])
def test_at_each_fault_its_alert_fires_and_no_other(cases: Sequence[Case], tmp_path: Path) -> None:
    if run(cases, tmp_path):  # promtool doesn't say in which case
        assert {case.name: wrong for case in cases if (wrong := run([case], tmp_path))} == {}
        pytest.fail("only all cases together fail")


def test_every_alert_has_a_case() -> None:
    assert {alert.name for alert in rules.alerts()} == {case.name.split()[0] for case in FIRING}


def test_an_alert_that_does_not_fire_fails_its_case(tmp_path: Path) -> None:
    never = Case("SagasStuck", {}, frozenset({"SagasStuck"}))
    assert 'alertname="SagasStuck"' in run([never], tmp_path)
