"""Every error of Kafka and its client: whether the event or its surroundings caused it, and the reason.

Only an error that the event caused parks it. The surroundings may recover, so the relay waits. An error that is not in
these tables counts as caused by the surroundings.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka.errors import BrokerResponseError, kafka_errors


@dataclass(frozen=True, slots=True)
class Group:
    """Errors with one reason; `by_number` has the broker's by their number, with Kafka's name for each."""

    reason: str
    by_number: Mapping[int, str]
    of_the_client: tuple[str, ...] = ()


# The broker refused the record's own bytes, and will always refuse them, from every relay.
EVENT = (
    Group(
        "the record is larger than the topic's max.message.bytes or segment.bytes allows",
        {10: "MESSAGE_TOO_LARGE", 18: "RECORD_LIST_TOO_LARGE"},
    ),
    Group("the broker's validation of records refuses it", {87: "INVALID_RECORD"}),
    # Kafka itself answers this only for topics and settings. For a record, a plugin or a proxy answers.
    Group("a policy for records refuses it", {44: "POLICY_VIOLATION"}),
)

SURROUNDINGS = (
    Group(
        "the database's clock, which stamps the records, and the broker's differ by more than the topic's "
        "message.timestamp.after.max.ms or message.timestamp.before.max.ms: check the clocks",
        {32: "INVALID_TIMESTAMP"},
    ),
    # The client computed the checksum of these same bytes, so memory or the network fails. Kafka's own clients retry.
    Group("the record was damaged in transit: check this host's memory and network", {2: "CORRUPT_MESSAGE"}),
    Group("fewer replicas are in sync than min.insync.replicas requires: check the brokers",
        {19: "NOT_ENOUGH_REPLICAS", 20: "NOT_ENOUGH_REPLICAS_AFTER_APPEND"},
    ),
    Group(
        "the relay's principal has no right to this: check the broker's ACLs",
        {
            29: "TOPIC_AUTHORIZATION_FAILED", 30: "GROUP_AUTHORIZATION_FAILED", 31: "CLUSTER_AUTHORIZATION_FAILED",
            53: "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", 65: "DELEGATION_TOKEN_AUTHORIZATION_FAILED",
        },
    ),
    Group(
        "the broker refuses the relay's connection: check the KAFKA_ settings",
        {
            33: "UNSUPPORTED_SASL_MECHANISM", 34: "ILLEGAL_SASL_STATE", 54: "SECURITY_DISABLED",
            58: "SASL_AUTHENTICATION_FAILED", 61: "DELEGATION_TOKEN_AUTH_DISABLED", 62: "DELEGATION_TOKEN_NOT_FOUND",
            63: "DELEGATION_TOKEN_OWNER_MISMATCH", 64: "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED",
            66: "DELEGATION_TOKEN_EXPIRED", 67: "INVALID_PRINCIPAL_TYPE", 93: "UNACCEPTABLE_CREDENTIAL",
            97: "PRINCIPAL_DESERIALIZATION_FAILURE",
        },
        ("AuthenticationMethodNotSupported", "AuthenticationFailedError"),
    ),
    Group("a quota of the broker is used up", {89: "THROTTLING_QUOTA_EXCEEDED"}, ("QuotaViolationError",)),
    Group(
        "the topic or partition does not exist: the relay checks the topics again",
        {3: "UNKNOWN_TOPIC_OR_PARTITION", 17: "INVALID_TOPIC_EXCEPTION", 100: "UNKNOWN_TOPIC_ID",
         103: "INCONSISTENT_TOPIC_ID"},
    ),
    Group(
        "the partition has no leader, or another one than the client believes",
        {
            5: "LEADER_NOT_AVAILABLE", 6: "NOT_LEADER_OR_FOLLOWER", 9: "REPLICA_NOT_AVAILABLE",
            13: "NETWORK_EXCEPTION", 72: "LISTENER_NOT_FOUND", 74: "FENCED_LEADER_EPOCH", 75: "UNKNOWN_LEADER_EPOCH",
            80: "PREFERRED_LEADER_NOT_AVAILABLE", 83: "ELIGIBLE_LEADERS_NOT_AVAILABLE", 107: "INELIGIBLE_REPLICA",
            108: "NEW_LEADER_ELECTED",
        },
        ("StaleMetadata", "MetadataEmptyBrokerList"),
    ),
    Group(
        "the broker is unreachable, too slow, or starting or stopping",
        {
            7: "REQUEST_TIMED_OUT", 8: "BROKER_NOT_AVAILABLE", 14: "COORDINATOR_LOAD_IN_PROGRESS",
            15: "COORDINATOR_NOT_AVAILABLE", 16: "NOT_COORDINATOR", 41: "NOT_CONTROLLER",
            129: "REBOOTSTRAP_REQUIRED",
        },
        (
            "NoBrokersAvailable", "NodeNotReadyError", "KafkaUnavailableError", "KafkaTimeoutError",
            "KafkaConnectionError", "CorrelationIdError", "KafkaProtocolError", "TooManyInFlightRequests",
        ),
    ),
    Group("a disk of the broker fails", {56: "KAFKA_STORAGE_ERROR", 57: "LOG_DIR_NOT_FOUND"}),
    Group(
        "the producer was fenced, timed out, or is unknown to the broker: the relay opens a new one",
        {
            45: "OUT_OF_ORDER_SEQUENCE_NUMBER", 46: "DUPLICATE_SEQUENCE_NUMBER", 47: "INVALID_PRODUCER_EPOCH",
            48: "INVALID_TXN_STATE", 49: "INVALID_PRODUCER_ID_MAPPING", 51: "CONCURRENT_TRANSACTIONS",
            52: "TRANSACTION_COORDINATOR_FENCED", 55: "OPERATION_NOT_ATTEMPTED", 59: "UNKNOWN_PRODUCER_ID",
            90: "PRODUCER_FENCED", 105: "TRANSACTIONAL_ID_NOT_FOUND", 120: "TRANSACTION_ABORTABLE",
        },
        ("ProducerClosed", "ProducerFenced", "Cancelled"),
    ),
    Group(
        "RELAY_KAFKA_TIMEOUT_SECONDS is above the broker's transaction.max.timeout.ms",
        {50: "INVALID_TRANSACTION_TIMEOUT"},
    ),
    Group(
        "broker, topic and client have no common version, or not the one that records with headers need",
        {
            21: "INVALID_REQUIRED_ACKS", 35: "UNSUPPORTED_VERSION", 42: "INVALID_REQUEST",
            43: "UNSUPPORTED_FOR_MESSAGE_FORMAT", 76: "UNSUPPORTED_COMPRESSION_TYPE",
            114: "MISMATCHED_ENDPOINT_TYPE", 115: "UNSUPPORTED_ENDPOINT_TYPE",
        },
        ("UnrecognizedBrokerVersion", "IncompatibleBrokerVersion", "UnsupportedCodecError"),
    ),
    Group(
        "the topics can't be created like this: check RELAY_TOPIC_PARTITIONS and RELAY_TOPIC_REPLICATION",
        {
            36: "TOPIC_ALREADY_EXISTS", 37: "INVALID_PARTITIONS", 38: "INVALID_REPLICATION_FACTOR",
            39: "INVALID_REPLICA_ASSIGNMENT", 40: "INVALID_CONFIG", 60: "REASSIGNMENT_IN_PROGRESS",
            73: "TOPIC_DELETION_DISABLED", 85: "NO_REASSIGNMENT_IN_PROGRESS",
        },
        ("KafkaConfigurationError",),
    ),
    Group(
        "the broker fails, or its error is newer than this relay: the broker's log says more",
        {-1: "UNKNOWN_SERVER_ERROR"},
    ),
    Group(
        "not an answer to producers: only consumers, brokers and controllers get it",
        {
            1: "OFFSET_OUT_OF_RANGE", 4: "INVALID_FETCH_SIZE", 11: "STALE_CONTROLLER_EPOCH",
            12: "OFFSET_METADATA_TOO_LARGE", 22: "ILLEGAL_GENERATION", 23: "INCONSISTENT_GROUP_PROTOCOL",
            24: "INVALID_GROUP_ID", 25: "UNKNOWN_MEMBER_ID", 26: "INVALID_SESSION_TIMEOUT",
            27: "REBALANCE_IN_PROGRESS", 28: "INVALID_COMMIT_OFFSET_SIZE", 68: "NON_EMPTY_GROUP",
            69: "GROUP_ID_NOT_FOUND", 70: "FETCH_SESSION_ID_NOT_FOUND", 71: "INVALID_FETCH_SESSION_EPOCH",
            77: "STALE_BROKER_EPOCH", 78: "OFFSET_NOT_AVAILABLE", 79: "MEMBER_ID_REQUIRED",
            81: "GROUP_MAX_SIZE_REACHED", 82: "FENCED_INSTANCE_ID", 84: "ELECTION_NOT_NEEDED",
            86: "GROUP_SUBSCRIBED_TO_TOPIC", 88: "UNSTABLE_OFFSET_COMMIT", 91: "RESOURCE_NOT_FOUND",
            92: "DUPLICATE_RESOURCE", 94: "INCONSISTENT_VOTER_SET", 95: "INVALID_UPDATE_VERSION",
            96: "FEATURE_UPDATE_FAILED", 98: "SNAPSHOT_NOT_FOUND", 99: "POSITION_OUT_OF_RANGE",
            101: "DUPLICATE_BROKER_REGISTRATION", 102: "BROKER_ID_NOT_REGISTERED", 104: "INCONSISTENT_CLUSTER_ID",
            106: "FETCH_SESSION_TOPIC_ID_ERROR", 109: "OFFSET_MOVED_TO_TIERED_STORAGE", 110: "FENCED_MEMBER_EPOCH",
            111: "UNRELEASED_INSTANCE_ID", 112: "UNSUPPORTED_ASSIGNOR", 113: "STALE_MEMBER_EPOCH",
            116: "UNKNOWN_CONTROLLER_ID", 117: "UNKNOWN_SUBSCRIPTION_ID", 118: "TELEMETRY_TOO_LARGE",
            119: "INVALID_REGISTRATION", 121: "INVALID_RECORD_STATE", 122: "SHARE_SESSION_NOT_FOUND",
            123: "INVALID_SHARE_SESSION_EPOCH", 124: "FENCED_STATE_EPOCH", 125: "INVALID_VOTER_KEY",
            126: "DUPLICATE_VOTER", 127: "VOTER_NOT_FOUND", 128: "INVALID_REGULAR_EXPRESSION",
            130: "STREAMS_INVALID_TOPOLOGY", 131: "STREAMS_INVALID_TOPOLOGY_EPOCH", 132: "STREAMS_TOPOLOGY_FENCED",
            133: "SHARE_SESSION_LIMIT_REACHED",
        },
        (
            "CommitFailedError", "ConsumerStoppedError", "NoOffsetForPartitionError", "RecordTooLargeError",
            "IllegalStateError", "IllegalArgumentError", "IllegalOperation",
        ),
    ),
)  # fmt: skip


def _register() -> None:
    """Name the errors that the client does not know; otherwise it calls each of them UnknownError."""
    for group in (*EVENT, *SURROUNDINGS):
        for number, name in group.by_number.items():
            if number not in kafka_errors:
                class_name = "".join(word.title() for word in name.split("_")) + "Error"
                attributes = {"errno": number, "message": name, "description": group.reason}
                kafka_errors[number] = type(class_name, (BrokerResponseError,), attributes)


_register()
InvalidRecordError = kafka_errors[87]

TOO_LARGE = (kafka_errors[10], kafka_errors[18])
REFUSALS = tuple(kafka_errors[number] for group in EVENT for number in group.by_number)

_REASONS = {number: group.reason for group in (*EVENT, *SURROUNDINGS) for number in group.by_number} | {
    name: group.reason for group in SURROUNDINGS for name in group.of_the_client
}


def reason(error: BaseException) -> str | None:
    """Return the meaning of a Kafka error for the relay; None if it is in no table."""
    number = getattr(error, "errno", None) if isinstance(error, BrokerResponseError) else None
    return _REASONS.get(type(error).__name__ if number is None else number)


def describe(error: BaseException) -> str:
    """Return an error's name, text and meaning. The texts of the client's errors already contain their names."""
    name, text = type(error).__name__, str(error)
    said = text if name in text else f"{name}: {text}" if text else name
    meaning = reason(error)
    return f"{said} ({meaning})" if meaning else said
