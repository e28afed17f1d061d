"""Which slots a product shard may have."""

import pytest

from services.product.settings import Settings
from shared.slots import SLOTS, parse_slots

URL = "postgresql://localhost/shop"


def test_one_product_service_has_all_slots() -> None:
    assert len(parse_slots(Settings(database_url=URL).slots)) == SLOTS


@pytest.mark.parametrize(
    ("slots", "why"), [("0-4096", "is neither a slot"), ("0-9 older", "has slots only"), ("", "at least 1 item")]
)
def test_wrong_slots_are_refused(slots: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCT_SLOTS", slots)
    with pytest.raises(ValueError, match=why):
        Settings(database_url=URL)
