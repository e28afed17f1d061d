"""TLS by files: contexts for servers and for clients, which follow their files when these are replaced."""

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509
from prometheus_client import Gauge

log = structlog.get_logger()

# How often the files are looked at, while there are connections or somebody reads the metrics.
LOOK_SECONDS = 1.0
VALID = Gauge("tls_certificate_valid_seconds", "Time until the certificate in use expires", ["file"])
UNUSABLE = Gauge("tls_files_unusable", "1 while files were replaced by ones that can't be used", ["files"])


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: our certificate, with the intermediate ones, and its key; and the authorities whose peers we trust."""

    certificate: str | None = None
    key: str | None = None
    authorities: str | None = None

    @property
    def paths(self) -> Sequence[str]:
        """Return the files that are given, the most telling first."""
        return [path for path in (self.certificate, self.key, self.authorities) if path is not None]


def server(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of a server, at least TLS 1.2, whose next handshake uses the files as they are then.

    With authorities, clients may present a certificate; one that these did not sign ends the handshake. Raises
    ValueError if the files can't be used.
    """
    followed = _Followed(files, _server)

    def follow(connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        connection.context = followed.current()

    first = _server(files)
    first.sni_callback = follow  # called in each handshake, also when the client sends no name
    return first


# What aiohttp takes as the `ssl` of a call: True for the machine's authorities.
ClientTls = Callable[[], ssl.SSLContext | bool]


def client(files: TlsFiles) -> ClientTls:
    """Return a function that gives the context for a call now. Raises ValueError if the files can't be used."""
    return _Followed(files, _client).current if files.paths else lambda: True


def check_pair(certificate: str | None, key: str | None) -> None:
    """Raise ValueError unless both are given and belong together, or neither is given."""
    if (certificate is None) != (key is None):
        raise ValueError("a certificate and its key belong together: set both or neither")
    if certificate is not None:
        _server(TlsFiles(certificate, key))


def check_authorities(path: str) -> str:
    """Return the file's path. Raise ValueError unless it has certificates."""
    _client(TlsFiles(authorities=path))
    return path


def names(certificate: Mapping[str, Any]) -> list[str]:
    """Return whom a verified certificate (as from `getpeercert`) names: DNS names and URIs, or else its common name."""
    alternatives = [value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI")]
    subject = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return alternatives or subject


class _Followed:
    """The context for some files. If they are replaced by ones that can't be used, the last usable context stays."""

    def __init__(self, files: TlsFiles, make: Callable[[TlsFiles], ssl.SSLContext]) -> None:
        self._files = files
        self._make = make
        self._state = self._look()
        self._looked_at = time.monotonic()
        self._context = make(files)
        self._expires_at = _expires_at(files)
        self._unusable = UNUSABLE.labels(" ".join(files.paths))
        self._unusable.set(0)
        if files.certificate is not None:
            VALID.labels(files.certificate).set_function(self._valid_seconds)

    def current(self) -> ssl.SSLContext:
        """Return the context for the files as they are now, or as they last could be used."""
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = time.monotonic()
            if (state := self._look()) != self._state:
                self._state = state
                self._replace()
        return self._context

    def _replace(self) -> None:
        try:
            context, expires_at = self._make(self._files), _expires_at(self._files)
        except (ValueError, OSError) as error:
            self._unusable.set(1)
            log.error("tls_files.unusable", files=self._files.paths, detail=str(error))  # noqa: TRY400 - needs no trace
            return
        self._context, self._expires_at = context, expires_at
        self._unusable.set(0)
        log.info("tls_files.reloaded", files=self._files.paths)

    def _look(self) -> object:
        """Return what differs after a replacement of the files, or of a folder that links lead to, as in Kubernetes."""
        return [_identity(path) for path in self._files.paths]

    def _valid_seconds(self) -> float:
        self.current()
        return self._expires_at - time.time()


def _identity(path: str) -> tuple[int, ...] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _server(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session would not be checked against authorities that have been replaced since it began. Callers keep
    # their connections, so few handshakes would be shorter.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    _load(context, files)
    if files.authorities is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _client(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if files.authorities is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the machine's authorities
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    try:
        if files.authorities is not None:
            context.load_verify_locations(files.authorities)
        if files.certificate is not None:
            context.load_cert_chain(files.certificate, files.key, no_password)
    except ssl.SSLError as error:
        raise ValueError(f"{' and '.join(files.paths)} can't be used: {error.reason or error}") from None
    except OSError as error:
        raise ValueError(f"{' or '.join(files.paths)} can't be read: {error.strerror}") from None


def no_password() -> str:
    """Refuse a key with a password: the library would ask for it on the terminal."""
    raise ValueError("the key has a password; keep it without one, in a file that only the service can read")


def _expires_at(files: TlsFiles) -> float:
    """Return when our certificate expires, in seconds since the epoch. Raises ValueError or OSError."""
    if files.certificate is None:
        return float("inf")
    return x509.load_pem_x509_certificate(Path(files.certificate).read_bytes()).not_valid_after_utc.timestamp()
