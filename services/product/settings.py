"""What the product service is told, from the environment: PRODUCT_DATABASE_URL, PRODUCT_PORT, …"""

from pydantic_settings import SettingsConfigDict

from shared.settings import RETENTION_DAYS, Port, RetentionDays, ServiceSettings


class Settings(ServiceSettings):
    """Every field is described in the service's README."""

    model_config = SettingsConfigDict(env_prefix="PRODUCT_")

    port: Port = 8002
    retention_days: RetentionDays = RETENTION_DAYS
