"""Settings of the balance service, from the environment: BALANCE_DATABASE_URL, BALANCE_PORT, …"""

from pydantic_settings import SettingsConfigDict

from shared.process.settings import CellSettings, ParticipantSettings, Port


class Settings(CellSettings, ParticipantSettings):
    """Every field is described in the service's README."""

    model_config = SettingsConfigDict(env_prefix="BALANCE_")

    port: Port = 8004
