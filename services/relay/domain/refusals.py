"""Why a request is refused: an act on a parked event, a replay, or a read of events that have been removed."""

from datetime import datetime

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


class ReplayTopicNotAllowed(Refusal):
    """Replays may not go to that topic."""

    slug = "replay-topic-not-allowed"


class ReplayOfNothing(Refusal):
    """No event can fit."""

    slug = "replay-of-nothing"


class EventsRemoved(Refusal):
    """The events of that time have been removed."""

    slug = "events-removed"
    status = 410

    @classmethod
    def up_to(cls, timestamp: datetime) -> "EventsRemoved":
        """Return the refusal with the time up to which events have been removed."""
        return cls(f"Events up to {timestamp.isoformat()} have been removed.")


class ReplayNotFound(Refusal):
    """There is no such replay."""

    slug = "replay-not-found"
    status = 404


class ReplayNotRunning(Refusal):
    """The replay doesn't run, so it can't be cancelled."""

    slug = "replay-not-running"
    status = 409


class ReplayNotStopped(Refusal):
    """The replay was not cancelled and has not failed, so it can't be resumed."""

    slug = "replay-not-stopped"
    status = 409


class BucketGone(Refusal):
    """The events of that time have been removed."""

    slug = "bucket-gone"
    status = 410
