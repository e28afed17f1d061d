"""Guards of TLS: which files are used, who is let in, and which connections count."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_tls = guards_in("shared/tls.py", "tests/unit/shared/test_tls.py::")
_server = "tests/integration/http/test_tls.py::"
_limit = guards_in("shared/http/connection.py", _server)
_connection = guards_in("shared/http/aiohttp_internals.py", _server)
_unit = "tests/unit/shared/test_connection.py::"
_handshake = guards_in("shared/http/connection.py", _unit)
_counts = guards_in("shared/http/aiohttp_internals.py", _unit)
_listener = guards_in("shared/http/tls_listener.py", _server)
_identity = guards_in("shared/identity/authenticator.py", "tests/integration/identity/test_certificates.py::")
_keys = guards_in("shared/identity/keys.py", "tests/integration/identity/test_issuers.py::")
_expiry = guards_in("shared/identity/authenticator.py", "tests/unit/identity/test_authenticator.py::")
_look = guards_in("shared/identity/keys.py", "tests/unit/identity/test_authenticator.py::")

GUARDS: Sequence[Guard] = (
    _tls(
        "tls: no session skips the check against replaced authorities",
        "def _server",
        "context.num_tickets = 0",
        "pass",
        "test_replaced_authorities_of_clients_count_from_the_next_handshake",
    ),
    _tls(
        "tls: files that can't be used keep the last usable ones",
        "def _replace",
        "except (ValueError, OSError) as error:",
        "except ZeroDivisionError as error:",
        "test_broken_replacement_keeps_the_old_files_and_is_logged_once[missing]",
    ),
    _tls(
        "tls: probes need no certificate",
        "def _server",
        "ssl.CERT_OPTIONAL",
        "ssl.CERT_REQUIRED",
        "test_client_certificate_is_optional_and_names_the_caller",
    ),
    _identity(
        "tls: a certificate must have a listed name",
        "class JwtAuthenticator",
        "if name in self._client_names:",
        "if True:",
        "test_only_named_callers_reach_internal_calls[product]",
    ),
    _expiry(
        "tls: a certificate that expires on an open connection no longer counts",
        "class JwtAuthenticator",
        'if certificate and self._clock() <= ssl.cert_time_to_seconds(certificate["notAfter"]):',
        "if certificate:",
        "test_client_certificate_identifies_its_caller_until_it_expires",
    ),
    _handshake(
        "tls: a connection in its handshake counts",
        "class Handshake",
        "limit.taken += 1",
        "pass",
        "test_connection_is_counted_once_during_and_after_its_handshake",
    ),
    _limit(
        "tls: a handshake is subtracted once",
        "class Handshake",
        "if self._counts:",
        "if True:",
        "test_count_is_exact_after_late_handshakes[uvloop]",
    ),
    _listener(
        "tls: a failed handshake counts no longer than its connection",
        "async def _shake_hands",
        "handshake.end()",
        "pass",
        "test_count_is_exact_after_late_handshakes[uvloop]",
    ),
    _listener(
        "tls: a connection beyond the limit is closed at once",
        "def _accept_one",
        "if self._limit.full:",
        "if False:",
        "test_client_that_begins_no_handshake_is_closed_and_counts_until_then[uvloop]",
    ),
    _listener(
        "tls: a stop does not wait for handshakes",
        "async def close",
        "task.cancel()",
        "pass",
        "test_stop_closes_connections_in_their_handshake[uvloop]",
    ),
    _listener(
        "tls: a lack of descriptors ends no listener",
        "def _accept_one",
        "self._loop.call_later(RETRY_SECONDS, self._resume, listening)",
        "pass",
        "test_listener_without_descriptors_accepts_again_later[uvloop]",
    ),
    _counts(
        "tls: a connection that is made is counted once",
        "def connection_made",
        "if self._handshake is not None:",
        "if False:",
        "test_connection_is_counted_once_during_and_after_its_handshake",
    ),
    _connection(
        "tls: a client's end closes its connection, which can't stay half open",
        "def eof_received",
        "if self._handshake is not None:",
        "if False:",
        "test_client_that_closes_after_its_request_harms_nobody[uvloop]",
    ),
    _keys(
        "identity: keys that no caller needs are read again for their metric",
        "def _reported_age",
        "self.usable()",
        "pass",
        "test_keys_that_no_caller_needs_are_read_again_for_their_metric",
    ),
    _look(
        "keys: without usable ones the next read follows soon",
        "def _begin_look",
        "if self._age() <= STALE_SECONDS else LOOK_AGAIN_SECONDS",
        "if True else LOOK_AGAIN_SECONDS",
        "test_without_usable_keys_they_are_looked_for_each_second",
    ),
    _look(
        "keys: no caller waits for an issuer that hangs",
        "async def current",
        "AFTER_FAILURE_SECONDS if self._look_failed else None",
        "None",
        "test_caller_does_not_wait_for_an_issuer_that_hangs_after_a_failure",
    ),
)
