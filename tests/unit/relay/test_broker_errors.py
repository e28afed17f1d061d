"""Only refusals of an event's content or size count as caused by the event, and every error has an explanation."""

from typing import Any

import aiokafka.errors
import pytest
from aiokafka.errors import BrokerResponseError, KafkaError, for_code

from services.relay.kafka.errors import EVENT, REFUSALS, SURROUNDINGS, describe, reason

LAST = 133  # of Kafka 4.1; a newer broker answers an older client with errors that it knows
# Base classes of errors, and numbers that are not errors.
NO_ANSWERS = {"KafkaError", "BrokerResponseError", "NoError"}

GROUPS = (*EVENT, *SURROUNDINGS)


def test_every_number_of_kafka_s_is_in_one_group() -> None:
    numbers = [number for group in GROUPS for number in group.by_number]
    assert sorted(numbers) == [-1, *range(1, LAST + 1)]


def of_the_client() -> list[Any]:
    classes = [thing for thing in vars(aiokafka.errors).values() if isinstance(thing, type)]
    return [thing for thing in classes if issubclass(thing, Exception) and thing.__name__ not in NO_ANSWERS]


@pytest.mark.parametrize("error", of_the_client(), ids=lambda error: error.__name__)
def test_every_error_of_the_client_is_classified(error: Any) -> None:
    if issubclass(error, BrokerResponseError):
        number = error.errno
        assert for_code(number) is error
        assert any(number in group.by_number for group in GROUPS)
    else:
        assert [group for group in GROUPS if error.__name__ in group.of_the_client]
    assert reason(error())


def test_no_group_names_a_class_that_the_client_does_not_have() -> None:
    named = {name for group in GROUPS for name in group.of_the_client}
    assert named <= {error.__name__ for error in of_the_client()}


@pytest.mark.parametrize("number", [10, 18, 44, 87])
def test_refusal_of_a_record_is_attributed_to_its_event(number: int) -> None:
    assert isinstance(for_code(number)(), REFUSALS)


@pytest.mark.parametrize(
    "number", [-1, 2, 3, 6, 7, 19, 20, 29, 31, 32, 35, 43, 47, 50, 53, 56, 58, 76, 89, 90, 120, 999]
)
def test_broker_error_is_not_attributed_to_an_event(number: int) -> None:
    assert not isinstance(for_code(number)(), REFUSALS)


@pytest.mark.parametrize("number", range(1, LAST + 1))
def test_every_number_has_a_name_of_its_own(number: int) -> None:
    assert for_code(number).__name__ != "UnknownError"


def test_error_text_has_its_name_and_meaning() -> None:
    assert describe(for_code(32)()).startswith("[Error 32] InvalidTimestampError (the database's clock")
    assert describe(for_code(89)()) == "[Error 89] ThrottlingQuotaExceededError (a quota of the broker is used up)"
    assert describe(KafkaError("odd")) == "KafkaError: odd"
    assert describe(OSError("gone")) == "OSError: gone"
    assert describe(TimeoutError()) == "TimeoutError"


def test_number_of_the_operating_system_is_not_taken_for_one_of_kafka_s() -> None:
    assert reason(OSError(87, "Structure needs cleaning")) is None
