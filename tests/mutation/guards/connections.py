"""Guards of connections to the database: none leads to a server that takes no writes."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_FORMER = "tests/integration/test_former_primaries.py::"
_ERRORS = "tests/unit/shared/test_sqlstates.py::"
_connections = guards_in("shared/postgres/connections.py", _FORMER)
_check = guards_in("shared/postgres/connections.py", "tests/unit/shared/test_connections.py::")
_STANDBY = "tests/integration/test_standby_waits.py::"
_GAVE_UP = "test_commit_without_a_standby_is_not_seen_after_its_caller_gave_up"
_standby = guards_in("shared/postgres/connecting.py", _STANDBY)
_deadlines = guards_in("shared/postgres/connecting.py", "tests/integration/test_deadlines.py::")
_closing = guards_in("shared/postgres/connections.py", _STANDBY)
_evidence = guards_in("shared/postgres/connections.py", "tests/integration/test_outdated_evidence.py::")
_migrating = guards_in("shared/process/main.py", _STANDBY)
_connecting = guards_in("shared/postgres/connecting.py", "tests/integration/test_connecting.py::")
_query_check = guards_in("shared/postgres/query_check.py", "tests/unit/shared/test_query_check.py::")
_url = guards_in("shared/postgres/database_url.py", "tests/unit/shared/test_database_url.py::")
_errors = guards_in("shared/postgres/errors.py", _ERRORS)
_notifier = guards_in("services/relay/publishing/notifier.py", "tests/integration/relay/test_notifier.py::")
_lease = guards_in("services/order/engine/admission.py", "tests/unit/order/test_lease.py::")

GUARDS: Sequence[Guard] = (
    _deadlines(
        "connection: a statement whose client is gone does not wait in a lock queue",
        "SESSION_SETTINGS: ",
        '"client_connection_check_interval": "1s"',
        '"client_connection_check_interval": "0"',
        "test_readers_that_take_all_connections_do_not_make_the_service_unready",
    ),
    _standby(
        "connection: a commit that waits for a standby is not cancelled",
        "def _cancel_current_command",
        "asyncio.get_running_loop().call_soon(self.terminate)",
        "super()._cancel_current_command(*_)",
        f"{_GAVE_UP}[by-cancellation-by_connected_of_a_caller_that_cleans_up]",
        f"{_GAVE_UP}[by-the-driver-by_connected]",
        f"{_GAVE_UP}[by-the-driver-by_pool_of_a_caller_that_cleans_up]",
    ),
    _closing(
        "session: a statement under way does not succeed by a close",
        "class Session",
        "if self._lock.locked():",
        "if False:",
        "test_commit_without_a_standby_is_not_seen_after_its_session_was_closed",
    ),
    _evidence(
        "pool: reads that may be used against others are confirmed by a commit",
        "async def confirmed",
        "await connection.execute(write)",
        "pass",
        "test_relay_on_a_former_primary_does_not_say_what_was_published",
    ),
    _migrating(
        "migrate: a commit that waits for a standby is not cancelled",
        "def _migrate",
        "signal.signal(signal.SIGINT, lambda *_: os._exit(Exit.INTERRUPTED))",
        "pass",
        "test_migration_without_a_standby_is_not_seen_after_ctrl_c",
    ),
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
        "            except BaseException:\n                _drop(connection)\n                raise",
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
