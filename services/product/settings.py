"""Settings of the product service, from the environment: PRODUCT_DATABASE_URL, PRODUCT_PORT, …"""

from pydantic_settings import SettingsConfigDict

from shared.process.settings import ParticipantSettings, Port


class Settings(ParticipantSettings):
    """Every field is described in the service's README."""

    model_config = SettingsConfigDict(env_prefix="PRODUCT_")

    port: Port = 8002
