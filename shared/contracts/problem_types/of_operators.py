"""Why an operator's act is refused, or a consumer's question about events."""

from shared.contracts.problem_types.problem_type import ProblemType, Retry

OF_OPERATORS = (
    ProblemType(
        "saga-not-found",
        404,
        Retry.NO,
        "no such saga",
        "Check the id: a saga's own, or its order's. A saga that ended long ago has been removed.",
    ),
    ProblemType(
        "saga-not-in-state",
        409,
        Retry.LATER,
        "the saga's state doesn't allow this act",
        "Read the saga. A saga that has ended can't be changed, and one that is being undone can't be forced again.",
    ),
    ProblemType(
        "event-not-parked",
        404,
        Retry.NO,
        "no such parked event",
        "List the parked events. Perhaps the event was retried or given up in the meantime.",
    ),
    ProblemType(
        "event-not-first",
        409,
        Retry.LATER,
        "the event waits behind another parked event of its order",
        "First retry, redact or skip the order's first parked event.",
    ),
    ProblemType(
        "nothing-to-redact",
        409,
        Retry.NO,
        "the event has no lines that could be left out",
        "Retry the event, or give it up.",
    ),
    ProblemType(
        "replay-topic-not-allowed",
        400,
        Retry.CORRECTED,
        "the relay's own topics and Kafka's are not for replays",
        "Name a topic that is for this replay only.",
    ),
    ProblemType(
        "replay-of-nothing",
        400,
        Retry.CORRECTED,
        "the selection is empty, or its end is not later than its beginning",
        "Say which events: of an order, of a type, of a time, or several of them.",
    ),
    ProblemType(
        "events-removed",
        410,
        Retry.NO,
        "some of the events to replay have been removed",
        "Begin the replay later than the time in `detail`. Older events are in backups only.",
    ),
    ProblemType(
        "replay-not-found",
        404,
        Retry.NO,
        "no such replay",
        "Check the id. `GET /admin/v1/replays` lists the newest replays.",
    ),
    ProblemType(
        "replay-not-running",
        409,
        Retry.NO,
        "the replay doesn't run, so it can't be cancelled",
        "Read the replay: it is done, cancelled or failed.",
    ),
    ProblemType(
        "replay-not-stopped",
        409,
        Retry.LATER,
        "the replay was not cancelled and has not failed, so it can't be resumed",
        "Read the replay: it runs, or it is done.",
    ),
    ProblemType(
        "bucket-gone",
        410,
        Retry.NO,
        "the events of that time have been removed",
        "Ask for the minute `oldest` or later ones.",
        "`oldest`",
    ),
)
