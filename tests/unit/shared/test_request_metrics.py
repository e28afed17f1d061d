"""Requests are counted once, and both names of their metrics report the same."""

from prometheus_client import REGISTRY

from shared.http import request_metrics


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_older_names_add_up_what_the_conventions_keep_apart() -> None:
    for status, scheme, seconds in ((200, "http", 0.2), (200, "https", 0.3), (503, "http", 0.002)):
        request_metrics.observe("PUT", "/v1/measured", status, scheme, seconds)
    place = {"method": "PUT", "route": "/v1/measured"}
    assert value("http_request_seconds_count", **place) == 3
    assert value("http_request_seconds_sum", **place) == 0.502
    assert [value("http_request_seconds_bucket", **place, le=le) for le in ("0.0025", "0.25", "0.5", "+Inf")] == [
        *(1, 2, 3, 3)
    ]
    assert value("http_responses_total", **place, status="200") == 2
    assert value("http_responses_total", **place, status="503") == 1
    refused = {"http_request_method": "PUT", "http_route": "/v1/measured", "http_response_status_code": "503"}
    assert value("http_server_request_duration_seconds_count", **refused, url_scheme="http") == 1


def test_a_path_that_clients_chose_is_in_no_label() -> None:
    theirs = {"http_request_method": "_OTHER", "http_route": "", "http_response_status_code": "404"}

    def counts() -> list[float]:
        found = (
            value("http_server_request_duration_seconds_count", **theirs, url_scheme="http"),
            value("http_responses_total", method="other", route="unknown", status="404"),
        )
        return [count or 0.0 for count in found]

    before = counts()
    request_metrics.observe("other", "unknown", 404, "http", 0.1)
    assert counts() == [count + 1 for count in before]
