"""Why an act on a parked event is refused."""

from shared.refusals import Refusal


class EventNotParked(Refusal):
    """There is no such parked event."""

    slug = "event-not-parked"
    status = 404


class EventNotFirst(Refusal):
    """The event waits behind another one of its order, which has to be dealt with first."""

    slug = "event-not-first"
    status = 409


class NothingToRedact(Refusal):
    """The event has nothing that could be left out."""

    slug = "nothing-to-redact"
    status = 409
