"""Settings of the coupon service, from the environment: COUPON_DATABASE_URL, COUPON_PORT, …"""

from pydantic_settings import SettingsConfigDict

from shared.process.settings import CellSettings, ParticipantSettings, Port


class Settings(CellSettings, ParticipantSettings):
    """Every field is described in the service's README."""

    model_config = SettingsConfigDict(env_prefix="COUPON_")

    port: Port = 8003
