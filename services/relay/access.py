"""Access to Kafka: the settings for TLS and SASL, checked against each other, and the client's options."""

import ssl
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, FilePath, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from shared.secrecy import Public
from shared.tls import no_password

SASL = ("SASL_PLAINTEXT", "SASL_SSL")
TLS = ("SSL", "SASL_SSL")


def _addresses(text: str) -> str:
    for address in text.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
            raise ValueError("must be host:port, or several with commas between")
    return text


def _setting(name: str) -> Any:
    return Field(default=None, validation_alias=name, validate_default=True)


class KafkaAccess(BaseSettings):
    """Kafka's address, protocol and credentials. The names have no prefix, because other programs use them too."""

    kafka_bootstrap_servers: Annotated[
        Public[str], AfterValidator(_addresses), Field(validation_alias="KAFKA_BOOTSTRAP_SERVERS")
    ]
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Field(validation_alias="KAFKA_SECURITY_PROTOCOL")
    ] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = _setting("KAFKA_SASL_MECHANISM")
    kafka_sasl_username: Public[str] | None = _setting("KAFKA_SASL_USERNAME")
    kafka_sasl_password: SecretStr | None = _setting("KAFKA_SASL_PASSWORD")
    # Read at each connection, so that a password can be replaced while the relay runs.
    kafka_sasl_password_file: FilePath | None = _setting("KAFKA_SASL_PASSWORD_FILE")
    # Authorities to trust instead of the machine's; and the relay's own certificate for brokers that require one.
    kafka_ssl_ca_file: FilePath | None = _setting("KAFKA_SSL_CA_FILE")
    kafka_ssl_certificate_file: FilePath | None = _setting("KAFKA_SSL_CERTIFICATE_FILE")
    kafka_ssl_key_file: FilePath | None = _setting("KAFKA_SSL_KEY_FILE")

    @field_validator("kafka_sasl_mechanism", "kafka_sasl_username")
    @classmethod
    def _with_sasl(cls, value: str | None, info: ValidationInfo) -> str | None:
        protocol = info.data.get("kafka_security_protocol")
        if protocol in SASL and not value:
            raise ValueError(f"must be set when KAFKA_SECURITY_PROTOCOL is {protocol}")
        if protocol not in (None, *SASL) and value is not None:
            raise ValueError(f"has no meaning when KAFKA_SECURITY_PROTOCOL is {protocol}")
        return value

    @field_validator("kafka_sasl_password_file")
    @classmethod
    def _one_password(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        protocol, password = info.data.get("kafka_security_protocol"), info.data.get("kafka_sasl_password")
        given = [value for value in (path, password) if value is not None]
        if protocol in SASL and len(given) != 1:
            raise ValueError("must be set, or else KAFKA_SASL_PASSWORD, and not both")
        if protocol not in (None, *SASL) and given:
            raise ValueError(f"a password has no meaning when KAFKA_SECURITY_PROTOCOL is {protocol}")
        if path is not None and not _text(path):
            raise ValueError("is empty")
        return path

    @field_validator("kafka_ssl_ca_file", "kafka_ssl_certificate_file", "kafka_ssl_key_file")
    @classmethod
    def _with_tls(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        protocol = info.data.get("kafka_security_protocol")
        if protocol not in (None, *TLS) and path is not None:
            raise ValueError(f"has no meaning when KAFKA_SECURITY_PROTOCOL is {protocol}")
        if info.field_name == "kafka_ssl_key_file":
            certificate = info.data.get("kafka_ssl_certificate_file")
            if (path is None) != (certificate is None):
                raise ValueError("belongs to KAFKA_SSL_CERTIFICATE_FILE: set both or neither")
            _tried(None, certificate, path)
        elif info.field_name == "kafka_ssl_ca_file":
            _tried(path, None, None)
        return path

    def kafka_options(self) -> dict[str, Any]:
        """Return the options of every Kafka client. Raises OSError if a file is missing."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.kafka_bootstrap_servers,
            "security_protocol": self.kafka_security_protocol,
        }
        if self.kafka_security_protocol in SASL:
            options["sasl_mechanism"] = self.kafka_sasl_mechanism
            options["sasl_plain_username"] = self.kafka_sasl_username
            options["sasl_plain_password"] = self._password()
        if self.kafka_security_protocol in TLS:
            options["ssl_context"] = _context(
                self.kafka_ssl_ca_file, self.kafka_ssl_certificate_file, self.kafka_ssl_key_file
            )
        return options

    def _password(self) -> str:
        if self.kafka_sasl_password_file is not None:
            return _text(self.kafka_sasl_password_file)
        assert self.kafka_sasl_password is not None
        return self.kafka_sasl_password.get_secret_value()


def _text(path: Path) -> str:
    return path.read_text().rstrip("\r\n")


def _context(authorities: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authorities)
    if certificate is not None:
        context.load_cert_chain(certificate, key, no_password)
    return context


def _tried(authorities: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Raise ValueError at start for files that would fail at the first connection."""
    try:
        _context(authorities, certificate, key)
    except ssl.SSLError as error:
        raise ValueError(f"can't be used: {error.reason or error}") from None
