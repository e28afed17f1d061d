"""Guards of tracing: it mixes no requests up, delays nothing, and records nothing of a customer."""

from collections.abc import Sequence

from tests.mutation.guard import Guard, guards_in

_TESTS = "tests/unit/shared/test_tracing.py::"
_spans = guards_in("shared/tracing/spans.py", _TESTS)
_recording = guards_in("shared/tracing/recording.py", _TESTS)
_ids = guards_in("shared/process/trace.py", _TESTS)
_settings = guards_in("shared/tracing/settings.py", _TESTS)
_consumer = guards_in("deploy/consumer/tracing.py", "tests/unit/consumer/test_tracing.py::")

GUARDS: Sequence[Guard] = (
    _spans(
        "a probe does not continue the span of the connection's last request",
        "def begin_request",
        "return enter(NOT_RECORDED)",
        "return NOT_RECORDED",
        "test_next_request_of_a_connection_does_not_continue_the_span_of_the_last",
    ),
    _spans(
        "OpenTelemetry is imported only where tracing is on",
        "if not settings.traced:",
        "not settings.traced",
        "False",
        "test_process_without_the_variables_does_not_import_opentelemetry",
    ),
    _ids(
        "a service that is called follows the decision about a new trace",
        "# Where spans are recorded",
        '"00" if spans.is_on() else "01"',
        '"01"',
        "test_service_that_is_called_follows_the_decision_about_a_new_trace",
    ),
    _recording(
        "a full queue drops new spans and counts them",
        "def on_end",
        "if self._queued - self._exporter.taken >= self._queue_max:",
        "if False:",
        "test_full_queue_drops_and_counts_and_never_blocks",
    ),
    _recording(
        "an exporter that hangs does not delay the stop",
        "# The library's own shutdown waits",
        "flush.join(FLUSH_SECONDS)",
        "flush.join(6)",
        "test_exporter_that_hangs_delays_the_stop_by_no_more_than_a_second",
    ),
    _recording(
        "a bug of the exporter does not end its thread",
        "except Exception:",
        "result = SpanExportResult.FAILURE",
        "raise",
        "test_export_that_raises_is_counted_as_failed",
    ),
    _recording(
        "a failure is recorded without its text",
        "def fail",
        "type(error).__qualname__",
        "repr(error)",
        "test_failure_is_recorded_without_its_text",
    ),
    _settings(
        "a sampler without its ratio does not record everything",
        "def _ratio",
        "if not 0 <= ratio <= 1:",
        "if False:",
        "test_a_value_of_which_the_library_would_only_warn_is_refused[variables5]",
    ),
    _consumer(
        "the consumer begins no trace of its own",
        "context = TraceContextTextMapPropagator()",
        "if not get_current_span(context).get_span_context().is_valid:",
        "if False:",
        "test_an_event_is_processed_below_the_relays_span_or_its_request",
    ),
    _consumer(
        "the consumer records a failure without its text",
        "except BaseException as error:",
        "type(error).__qualname__",
        "repr(error)",
        "test_failed_transaction_fails_the_spans_without_the_text_of_its_error",
    ),
)
