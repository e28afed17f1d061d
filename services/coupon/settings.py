"""What the coupon service is told, from the environment: COUPON_DATABASE_URL, COUPON_PORT, …"""

from pydantic_settings import SettingsConfigDict

from shared.settings import RETENTION_DAYS, Port, RetentionDays, ServiceSettings


class Settings(ServiceSettings):
    """Every field is described in the service's README."""

    model_config = SettingsConfigDict(env_prefix="COUPON_")

    port: Port = 8003
    retention_days: RetentionDays = RETENTION_DAYS
