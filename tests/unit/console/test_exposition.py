"""The console reads the metrics that it shows, as Prometheus' own parser reads them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deploy.console.figures.exposition import Key, Reader


def exposition() -> str:
    registry = CollectorRegistry()
    Counter("calls", "All calls", ["route"], registry=registry).labels('/v1/orders/{id} "quoted" \\ and\nmore').inc(3)
    Gauge("running", "Without labels", registry=registry).set(-1.5)
    times = Histogram("seconds", "Times", ["method", "code"], buckets=(0.1, 1), registry=registry)
    times.labels("GET", "200").observe(0.5)
    Gauge("other", "Not wanted", registry=registry).set(1)
    return generate_latest(registry).decode()


def test_wanted_samples_are_read_as_the_reference_parser_reads_them() -> None:
    text = exposition()
    names = ("calls_total", "running", "seconds_bucket", "seconds_sum")
    expected = {
        Key(sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in names
    }
    assert len(expected) == 6
    assert Reader(names).read(text) == expected


def test_name_that_only_begins_alike_is_left_out() -> None:
    assert Reader(["up"]).read("up_total 1\nup 2\n") == {Key("up", ()): 2.0}


def test_line_without_a_number_is_left_out() -> None:
    assert Reader(["up"]).read('up what\n# up 1\nup{a="b"} 1 1700000000\n') == {Key("up", (("a", "b"),)): 1.0}
