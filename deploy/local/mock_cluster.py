"""librdkafka's in-memory Kafka cluster, reached through ctypes in the shared library of PyPI's confluent-kafka.

It speaks the Kafka protocol to any client, transactions included, and is meant for tests of clients: it keeps
the newest 5 MB of each partition in memory, doesn't fence an older producer of the same transactional id, and
shows records of open and aborted transactions to `read_committed` readers too. So it demonstrates the product,
and proves nothing about exactly once: that is for a real broker.
"""

import ctypes
import importlib.util
import os
import socket
import stat
from pathlib import Path

PRODUCER = 0  # rd_kafka_type_t; the cluster needs a client handle of some type
LOG_WARNING = b"4"  # syslog's level; at level 5 it logs that its handle has no servers to connect to
BROKER_ID = 1
BACKLOG = 128  # clients that connect at the same time
LOOPBACK = "127.0.0.1"


class MockClusterError(Exception):
    """The cluster cannot run; the message is shown to the user."""


class MockCluster:
    """One broker on a port of the loopback address. Create only one in a process."""

    def __init__(self, port: int) -> None:
        """Listen on `port`, or on any free port if it is 0. Raises OSError if the port is taken."""
        self._library = _library()
        with socket.create_server((LOOPBACK, port), backlog=BACKLOG) as listener:
            self._handle = self._new_handle()
            self._cluster = self._library.rd_kafka_mock_cluster_new(self._handle, 1)
            if not self._cluster:
                raise MockClusterError("librdkafka could not start its mock cluster")
            self.port: int = listener.getsockname()[1]
            self._move_to(listener)

    def create_topic(self, name: str, partitions: int) -> None:
        error = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        if error:
            raise MockClusterError(f"librdkafka's mock cluster refuses the topic {name}: error {error}")

    def _new_handle(self) -> int:
        message = ctypes.create_string_buffer(512)
        settings = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(settings, b"log_level", LOG_WARNING, message, len(message))
        handle = self._library.rd_kafka_new(PRODUCER, settings, message, len(message))
        if not handle:
            raise MockClusterError(f"librdkafka: {message.value.decode()}")
        return int(handle)

    def _move_to(self, listener: socket.socket) -> None:
        """Make the cluster accept connections from `listener` instead of its random port.

        The library has no setting for the port, and clients could not find a broker that restarts on another port.
        So our socket replaces the cluster's listening socket under the same descriptor number. The address that it
        advertises to clients is changed to match; this call also wakes its thread.
        """
        bootstraps: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        theirs = _listening_descriptor(int(bootstraps.decode().rpartition(":")[2]))
        os.set_blocking(listener.fileno(), os.get_blocking(theirs))
        os.dup2(listener.fileno(), theirs, inheritable=False)
        error = self._library.rd_kafka_mock_broker_set_host_port(self._cluster, BROKER_ID, LOOPBACK.encode(), self.port)
        if error:
            raise MockClusterError(f"librdkafka's mock cluster cannot move to port {self.port}: error {error}")


def _listening_descriptor(port: int) -> int:
    for name in os.listdir("/dev/fd"):
        descriptor = int(name)
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as candidate:
                address = candidate.getsockname()
                listens = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:  # closed since the list was read, or a kind of socket that Python doesn't know
            continue
        if listens and address == (LOOPBACK, port):
            return descriptor
    raise MockClusterError(f"the mock cluster's socket on port {port} was not found")


def _library() -> ctypes.CDLL:
    """Return the library with the signatures of the called functions; the header is rdkafka_mock.h."""
    library = ctypes.CDLL(str(_library_path()))
    pointer, text, integer, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, ()),
        ("rd_kafka_conf_set", integer, (pointer, text, text, text, size)),
        ("rd_kafka_new", pointer, (integer, pointer, text, size)),
        ("rd_kafka_mock_cluster_new", pointer, (pointer, integer)),
        ("rd_kafka_mock_cluster_bootstraps", text, (pointer,)),
        ("rd_kafka_mock_topic_create", integer, (pointer, text, integer, integer)),
        ("rd_kafka_mock_broker_set_host_port", integer, (pointer, ctypes.c_int32, text, integer)),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def _library_path() -> Path:
    """Return the library's path in wheels: beside the package on Linux, inside it on macOS."""
    spec = importlib.util.find_spec("confluent_kafka")
    if spec is None or spec.origin is None:
        raise MockClusterError("The package confluent-kafka is not installed: start this with `make run`")
    package = Path(spec.origin).parent
    places = (package.with_name("confluent_kafka.libs"), package / ".dylibs")
    for place in places:
        for path in sorted(place.glob("librdkafka*")):
            return path
    raise MockClusterError(f"librdkafka is in none of {', '.join(map(str, places))}")
