"""Every alert has a situation that really fires it, in `make alert-faults`."""

from tests.alerts import rules
from tests.alerts.faults import scale
from tests.alerts.faults.catalogue import SITUATIONS


def test_every_alert_is_fired_by_a_situation() -> None:
    fired = {name for situation in SITUATIONS for name in situation.alerts}
    assert fired == {alert.name for alert in rules.alerts()}


def test_shorter_thresholds_are_of_alerts_and_in_their_expressions() -> None:
    expressions = {alert.name: alert.expression for alert in rules.alerts()}
    for name, replaced in scale.THRESHOLDS.items():
        for old, new in replaced.items():
            assert expressions[name].count(old) == 1
            assert new != old
