"""Guards of connections to the database: none leads to a server that takes no writes."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_FORMER = "tests/integration/test_former_primaries.py::"
_ERRORS = "tests/unit/shared/test_sqlstates.py::"
_connections = guards_in("shared/postgres/connections.py", _FORMER)
_check = guards_in("shared/postgres/connections.py", "tests/unit/shared/test_connections.py::")
_connecting = guards_in("shared/postgres/connecting.py", "tests/integration/test_connecting.py::")
_query_check = guards_in("shared/postgres/query_check.py", "tests/unit/shared/test_query_check.py::")
_url = guards_in("shared/postgres/database_url.py", "tests/unit/shared/test_database_url.py::")
_errors = guards_in("shared/postgres/errors.py", _ERRORS)
_notifier = guards_in("services/relay/publishing/notifier.py", "tests/integration/relay/test_notifier.py::")
_lease = guards_in("services/order/engine/admission.py", "tests/unit/order/test_lease.py::")

GUARDS: Sequence[Guard] = (
    _connections(
        "pool: a connection to a former primary is not lent",
        "async def _acquire",
        'if await cast("CheckedConnection", connection).takes_writes(within_seconds=CHECKED_WITHIN_SECONDS):',
        "if True:",
        "test_pool_asks_a_connection_again_before_it_lends_it",
    ),
    _connections(
        "pool: a connection on which a write was refused is dropped",
        "except asyncpg.ReadOnlySQLTransactionError:",
        "await self._drop_all(connection)",
        "await self._pool.release(connection)",
        "test_pool_drops_a_connection_on_which_a_write_was_refused",
    ),
    _connections(
        "session: a checked one leaves a former primary",
        "async def statement",
        "if self._checked and not",
        "if False and not",
        "test_checked_session_asks_again_before_each_use",
    ),
    _connections(
        "session: a connection in doubt is dropped",
        "# The connection's state is unknown",
        "connection.terminate()\n                        self._connection = None",
        "pass",
        "test_session_drops_a_connection_on_which_a_write_was_refused",
    ),
    _connections(
        "pool: the other connections to a former primary are dropped",
        "async def _drop_all",
        "await self._pool.expire_connections()",
        "pass",
        "test_pool_drops_the_other_connections_of_a_server_that_refused_a_write",
    ),
    _check(
        "pool: a connection whose check was cancelled is dropped",
        "async def _acquire",
        "            except BaseException:\n                connection.terminate()\n                raise",
        "            except BaseException:\n                raise",
        "test_pool_drops_a_connection_whose_check_was_cancelled",
    ),
    _errors(
        "errors: an ended session may have committed",
        "def needs_operator",
        'and cause.severity_en == "ERROR"',
        "and True",
        "test_statement_is_repeated_unless_an_operator_must_act[42501-FATAL-False]",
    ),
    _errors(
        "errors: a plan that a migration made invalid is made again",
        "def is_transient",
        "if isinstance(error, asyncpg.InvalidCachedStatementError):",
        "if False:",
        "test_a_plan_that_a_migration_made_invalid_is_transient",
    ),
    _notifier(
        "notifier: it does not listen to a former primary",
        "async def _listen",
        "while not connection.turned_read_only:",
        "while True:",
        "test_notifier_leaves_a_server_that_turned_read_only",
    ),
    _lease(
        "order: a process without a lease begins nothing",
        "def check(self)",
        "if not self.valid:",
        "if False:",
        "test_a_lease_is_valid_from_its_first_renewal",
    ),
    _lease(
        "order: the lease counts from the question",
        "def renewed",
        "asked_at + self.seconds",
        "asyncio.get_running_loop().time() + self.seconds",
        "test_a_lease_counts_from_the_question_not_from_the_answer",
    ),
    _connecting(
        "connection: only a hot path's plans are pinned",
        "async def _connect",
        " if hot else SESSION_SETTINGS",
        "",
        "test_sessions_have_the_settings_that_they_were_designed_for[off]",
    ),
    _query_check(
        "queries: a query that locks needs the right to update",
        "async def _missing",
        '_RIGHTS[verb] == "SELECT" and locked & {"", alias}',
        "False",
        "test_rights_that_a_query_needs_are_asked_for[SELECT 1 FROM shop.things FOR UPDATE-rights1]",
    ),
    _url(
        "address: a root certificate may be given outside it",
        "def check_certificates",
        ' or os.environ.get("PGSSLROOTCERT") or default.exists()',
        "",
        "test_root_certificate_may_be_given_outside_the_address[PGSSLROOTCERT]",
        "test_root_certificate_may_be_given_outside_the_address[the default file]",
    ),
)
