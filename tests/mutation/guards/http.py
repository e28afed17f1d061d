"""Guards of the HTTP servers and of background loops."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_UNIT = "tests/unit/shared/"
_DEATH = "self.on_death()  # before the log, whose failure must not prevent it"
_LOG = 'log.critical("task.died", task=task.get_name(), exc_info=error)'
_connection = guards_in("shared/http/aiohttp_internals.py", f"{_UNIT}test_connection.py::")
_deadline = guards_in("shared/http/deadline.py", f"{_UNIT}test_deadline.py::")
_server = guards_in("shared/http/server.py", "tests/integration/product/test_api.py::")
_access_log = guards_in("shared/http/server.py", f"{_UNIT}test_access_log.py::")
_probes = guards_in("shared/http/server.py", f"{_UNIT}test_readiness.py::")
_semantics = guards_in("shared/http/server.py", "tests/integration/http/test_semantics.py::")
_wire = guards_in("shared/http/wire.py", f"{_UNIT}test_wire.py::")
_tasks = guards_in("shared/process/tasks.py", f"{_UNIT}test_background.py::")

_stopping_tests = "tests/integration/http/test_stopping.py::"
_plain = guards_in("shared/http/plain_listener.py", _stopping_tests)
_freed = guards_in("shared/http/aiohttp_internals.py", "tests/integration/http/test_memory.py::")
_stops = guards_in("shared/http/aiohttp_internals.py", _stopping_tests)
_stopping_server = guards_in("shared/http/server.py", _stopping_tests)
_opening = "tests/integration/identity/test_opening.py::"
_opening_server = guards_in("shared/http/server.py", _opening)
_opening_checks = guards_in("shared/http/readiness.py", _opening)
_opening_listeners = guards_in("shared/http/listeners.py", _opening)
_settings = guards_in("shared/http/settings_route.py", "tests/unit/test_shown_settings.py::")
_stop = guards_in("shared/process/stopping.py", "tests/unit/shared/test_stopping.py::")

GUARDS: Sequence[Guard] = (
    _settings(
        "settings: only what is classified as public is shown",
        "def in_effect",
        "secrecy(field) is Secrecy.PUBLIC",
        "True",
        "test_new_setting_that_nobody_has_classified_is_hidden",
    ),
    _settings(
        "settings: a URL that may have a password is not shown",
        "def in_effect",
        "_names_places(text)",
        "True",
        "test_url_that_has_more_than_a_place_is_hidden[password]",
    ),
    _freed(
        "http: a closed connection is freed without the garbage collector",
        "def connection_lost",
        "self._body = None",
        "pass",
        "test_closed_connection_is_freed_at_once[uvloop-refused]",
    ),
    _connection(
        "connection: rejections to a client that does not read are bounded",
        "def _rejected_immediately",
        "or self._paused ",
        "or False ",
        "test_answers_to_a_client_that_does_not_read_are_bounded",
    ),
    _connection(
        "connection: half of the first headers do not stay",
        "def connection_made",
        "self._expect_headers()",
        "pass",
        "test_headers_that_are_not_complete_in_time_end_the_connection",
    ),
    _connection(
        "connection: half of later headers do not stay",
        "def data_received",
        "self._expect_headers()",
        "pass",
        "test_headers_that_are_not_complete_in_time_end_the_connection",
    ),
    _connection(
        "connection: a byte of the headers grants no further time",
        "def _expect_headers",
        "if close_time < self._next_keepalive_close_time:",
        "if True:",
        "test_headers_that_are_not_complete_in_time_end_the_connection",
    ),
    _connection(
        "connection: a burst is admitted up to the free capacity",
        "def _rejected_immediately",
        "gate.pending += 1",
        "pass",
        "test_burst_is_admitted_up_to_the_free_capacity",
    ),
    _connection(
        "connection: a request whose handler began is not pending",
        "async def _handle_request",
        "self._arrived()",
        "pass",
        "test_burst_is_admitted_up_to_the_free_capacity",
    ),
    _connection(
        "connection: a request that woke the task is left to it",
        "def data_received",
        "if self._messages:",
        "if False:",
        "test_request_whose_end_comes_before_its_task_has_run_is_answered_once",
    ),
    _connection(
        "connection: a body that still comes is read",
        "def _rejected_immediately",
        "or not payload.is_eof()",
        "or False",
        "test_request_whose_body_still_comes_is_answered_once_it_is_whole",
    ),
    _connection(
        "connection: a request behind others is not answered before them",
        "def _rejected_immediately",
        "self._request_count != self._answered + 1",
        "False",
        "test_request_behind_one_that_is_handled_is_answered_after_it",
    ),
    _connection(
        "connection: nothing follows an answer that ends it",
        "async def _handle_request",
        "if response.keep_alive and not gone:",
        "if True:",
        "test_nothing_follows_an_answer_that_ends_its_connection",
    ),
    _deadline(
        "deadline: a request that cleans up too long is cancelled again",
        "def _cut",
        "if task not in self._cut_off:\n            CUT_OFF.inc()",
        "if task in self._cut_off:\n            return\n        CUT_OFF.inc()",
        "test_a_request_that_cleans_up_for_too_long_is_cancelled_again",
    ),
    _deadline(
        "deadline: nothing of the cancellation is left",
        "def end",
        "task.uncancel()",
        "pass",
        "test_a_request_that_hangs_is_cut_off_soon_after_its_deadline",
    ),
    _server(
        "server: no metric has a method of a client's choice",
        "async def _observe",
        'method = request.method if route != "unknown" else "other"',
        "method = request.method",
        "test_metrics_have_no_method_or_path_of_a_clients_choice",
    ),
    _access_log(
        "server: overload does not flood the log",
        "def _is_logged",
        "if now - self._overload_logged_at < OVERLOAD_LOG_SECONDS:",
        "if False:",
        "test_overload_is_logged_once_a_second_and_other_errors_always",
    ),
    _semantics(
        "server: a body that was not asked for ends its connection",
        "async def _observe",
        " or _leaves_body(request)",
        "",
        "test_a_body_that_is_not_read_ends_its_connection[uvloop-not asked for]",
    ),
    _semantics(
        "server: a body that is too large ends its connection",
        "response is None:",
        "response.force_close()",
        "pass",
        "test_a_body_that_is_not_read_ends_its_connection[uvloop-too large]",
    ),
    _wire(
        "body: an escaped colon does not hide a repeated member",
        "def check_unique_members",
        'b"\\\\u003" not in raw and ',
        "",
        "test_a_member_given_twice_is_malformed_at_any_depth_in_any_spelling[escaped colons]",
    ),
    _wire(
        "body: deep nesting is no bug",
        "def check_unique_members",
        "suppress(ValueError, RecursionError)",
        "suppress(ValueError)",
        "test_body_that_is_nested_too_deeply_is_malformed",
    ),
    _tasks(
        "background: the end of the process ends a loop",
        "def is_survivable",
        "return isinstance(error, Exception)",
        "return True",
        "test_end_of_the_process_ends_the_loop[KeyboardInterrupt]",
    ),
    _tasks(
        "background: an essential task that something else cancelled is dead",
        "def look",
        "None if task.cancelling() else asyncio.CancelledError()",
        "None",
        "test_essential_task_that_was_cancelled_by_what_it_waits_for_is_dead",
    ),
    _tasks(
        "background: a death ends the process although the log fails",
        "def look",
        f"{_DEATH}\n        {_LOG}",
        f"{_LOG}\n        self.on_death()",
        "test_death_is_reported_although_the_log_fails",
    ),
    _probes(
        "server: a process that stops is not ready",
        "async def _readyz",
        "if self._stop.announced:",
        "if False:",
        "test_service_that_stops_is_not_ready",
    ),
    _plain(
        "http: connections that the kernel has completed are accepted at the stop",
        "def _accept_all",
        "while True:",
        "while False:",
        "test_clients_that_connected_just_before_the_stop_are_answered",
    ),
    _stops(
        "http: a body on its way is read at the stop",
        "def is_receiving",
        "return bool(self._messages) or not (self._body is None or self._body_unwanted or self._body.is_eof())",
        "return False",
        "test_request_whose_body_is_on_its_way_at_the_stop_is_answered",
    ),
    _stopping_server(
        "http: an announced stop closes each connection with its next answer",
        "async def _observe",
        "self._stop.announced or ",
        "",
        "test_announced_stop_closes_each_connection_with_its_next_answer",
    ),
    _stop(
        "process: a stop during the start waits for nobody",
        "def request",
        "not self.listening or ",
        "",
        "test_stop_without_a_delay_or_a_listener_comes_at_once",
    ),
    _stop(
        "process: a second request ends the delay",
        "def request",
        "self.announced or ",
        "",
        "test_second_request_ends_the_delay",
    ),
    _opening_server(
        "http: clients connect when all checks have passed once",
        "async def run",
        'if self._audience == "clients":',
        "if False:",
        "test_clients_connect_when_all_checks_have_passed",
    ),
    _opening_checks(
        "http: the wait for the first checks ends",
        "async def first_ready",
        "with suppress(TimeoutError):",
        "with suppress(ZeroDivisionError):",
        "test_clients_are_told_what_is_wrong_if_a_start_takes_long",
    ),
    _opening_server(
        "http: a process that has to stop lets no client connect any more",
        "async def run",
        "if not stop.announced:",
        "if True:",
        "test_process_that_has_to_stop_lets_no_client_connect_any_more",
    ),
    _opening_listeners(
        "http: a process is not ready before clients can connect",
        "def listeners",
        '{**checks, "listener": clients.check_listens}',
        "checks",
        "test_clients_connect_when_all_checks_have_passed",
    ),
)
