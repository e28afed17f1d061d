"""Guards of the console: which requests it serves, to whom, and when an act is done."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_UNIT, _INTEGRATION = "tests/unit/console/", "tests/integration/console/"
_guard = guards_in("deploy/console/guard.py", f"{_UNIT}test_guard.py::")
_sessions = guards_in("deploy/console/sessions.py", f"{_UNIT}test_sessions.py::")
_application = guards_in("deploy/console/application.py", f"{_INTEGRATION}test_pages.py::")
_scopes = guards_in("deploy/console/application.py", f"{_INTEGRATION}test_sign_in.py::")
_sign_in = guards_in("deploy/console/sign_in.py", f"{_INTEGRATION}test_sign_in.py::")
_metrics = guards_in("deploy/console/metrics.py", f"{_INTEGRATION}test_metrics.py::")
_settings = guards_in("deploy/console/settings.py", f"{_INTEGRATION}test_metrics.py::")
_readings = guards_in("deploy/console/figures/readings.py", f"{_UNIT}test_readings.py::")

GUARDS: Sequence[Guard] = (
    _guard(
        "console: a name of another site does not lead to it",
        "def check",
        'raise Refused(421, "host")',
        "pass",
        "test_other_host_is_refused[rebound.example.net-GET]",
    ),
    _guard(
        "console: forms of other origins are refused",
        "# Browsers send it with each form.",
        'raise Refused(403, "origin")',
        "pass",
        "test_form_of_another_origin_is_refused[https://evil.example.net]",
    ),
    _guard(
        "console: forms of other sites are refused",
        "return\n    if site is not None and site != ",
        'raise Refused(403, "site")',
        "pass",
        "test_form_of_another_site_is_refused[cross-site]",
    ),
    _guard(
        "console: other sites load no parts of it",
        "if method in SAFE_METHODS:",
        'raise Refused(403, "site")',
        "pass",
        "test_part_of_another_sites_page_is_refused[fetch]",
    ),
    _application(
        "console: a form needs the token of its visitor",
        "known = parts.told",
        'raise Refused(403, "form")',
        "pass",
        "test_form_without_its_token_is_refused",
        "test_form_token_of_another_visitor_is_refused",
    ),
    _scopes(
        "console: strangers see nothing",
        "if route.scope is not None:",
        "if not visit.signed_in:",
        "if False:",
        "test_part_of_a_page_makes_the_page_load_again_once_the_session_has_ended",
    ),
    _scopes(
        "console: pages need their scope",
        "return visit.to_sign_in()\n        if not visit.may",
        "if not visit.may(route.scope):",
        "if False:",
        "test_token_without_the_scope_shows_no_page_and_no_figures",
    ),
    _sign_in(
        "console: a session has an id that nobody had before",
        "async def _sign_in",
        "visit.visitor = visit.parts.sessions.begin(token, caller).id_",
        "visit.parts.sessions._sessions[visit.visitor] = visit.parts.sessions.begin(token, caller)",
        "test_session_has_an_id_that_the_browser_did_not_have_before",
    ),
    _sessions(
        "console: a session ends with its token",
        "def find",
        "self._clock() >= session.expires_at",
        "False",
        "test_session_is_found_until_its_token_expires",
    ),
    _metrics(
        "console: no metric has a method of a client's choice",
        "def counting",
        'method = request.method if route != "unknown" else "other"',
        "method = request.method",
        "test_metrics_in_open_mode_are_beside_the_pages",
    ),
    _metrics(
        "console: a stream has no time",
        "def counting",
        "if response.content_type != STREAM:",
        "if True:",
        "test_streams_count_while_they_are_open_and_have_no_time",
    ),
    _settings(
        "console: strangers read no metrics beside the pages",
        "def shows_metrics_beside_pages",
        'self.internal_port is None and self.auth_mode == "open"',
        "self.internal_port is None",
        "test_with_identity_on_no_metrics_are_beside_the_pages",
    ),
    _readings(
        "console: a counter that began again is no negative rate",
        "def increase",
        "return now - before if now >= before else now",
        "return now - before",
        "test_rate_of_a_counter[restart: it began again at 0]",
    ),
)
