"""Settings of the product service, from the environment: PRODUCT_DATABASE_URL, PRODUCT_PORT, …"""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from shared.process.settings import ParticipantSettings, Port, Words
from shared.slots import OLDER, SLOTS, parse_slots


def _slots(words: tuple[str, ...]) -> tuple[str, ...]:
    parse_slots(words)
    if OLDER in words:
        raise ValueError("has slots only: products have had slots from the first on")
    return words


class Settings(ParticipantSettings):
    """Every field is described in the service's README."""

    model_config = SettingsConfigDict(env_prefix="PRODUCT_")

    port: Port = 8002
    # Of a product shard: the slots of its products, such as `0-2047 3000`.
    slots: Annotated[Words, Field(min_length=1), AfterValidator(_slots)] = (f"0-{SLOTS - 1}",)
