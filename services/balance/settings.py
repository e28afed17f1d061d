"""What the balance service is told, from the environment: BALANCE_DATABASE_URL, BALANCE_PORT, …"""

from pydantic_settings import SettingsConfigDict

from shared.settings import RETENTION_DAYS, Port, RetentionDays, ServiceSettings


class Settings(ServiceSettings):
    """Every field is described in the service's README."""

    model_config = SettingsConfigDict(env_prefix="BALANCE_")

    port: Port = 8004
    retention_days: RetentionDays = RETENTION_DAYS
