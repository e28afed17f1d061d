"""Runs the embedded broker as a process: `python -m deploy.local.broker --port 19092 --topic orders.v1:4`.

Once clients can connect, it prints its address in one line. It runs until SIGTERM or SIGINT, and keeps no data.
"""

import argparse
import os
import re
import signal
import sys

from deploy.local.mock_cluster import LOOPBACK, MockCluster, MockClusterError
from shared.process.exits import Exit

PORT_MAX = 65535


def topic(text: str) -> tuple[str, int]:
    """Parse `name:partitions`: a name that Kafka accepts, and 1 to 1000 partitions."""
    match = re.fullmatch(r"([A-Za-z0-9._-]{1,249}):([1-9][0-9]{0,2}|1000)", text)
    if match is None or match[1] in (".", ".."):
        raise argparse.ArgumentTypeError(f"a topic is given as NAME:PARTITIONS (got {text!r})")
    return match[1], int(match[2])


def port(text: str) -> int:
    """Parse a port, or 0."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > PORT_MAX:
        raise argparse.ArgumentTypeError(f"a port is 1 to {PORT_MAX}, or 0 (got {text!r})")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.broker", description="An in-memory Kafka broker.")
    parser.add_argument("--port", type=port, default=0, help="0, the default, takes any free port")
    parser.add_argument(
        "--topic", type=topic, action="append", default=[], metavar="NAME:PARTITIONS", dest="topics",
        help="create this topic; other topics are created with 4 partitions at the first request",
    )  # fmt: skip
    arguments = parser.parse_args()
    # Block the signals before the library starts its threads, which inherit the mask: only sigwait receives them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        cluster = MockCluster(arguments.port)
        for name, partitions in arguments.topics:
            cluster.create_topic(name, partitions)
    except OSError as error:
        print(f"port {arguments.port}: {os.strerror(error.errno or 0)}", file=sys.stderr)
        sys.exit(Exit.CANNOT_LISTEN)
    except MockClusterError as error:
        sys.exit(str(error))
    print(f"{LOOPBACK}:{cluster.port}", flush=True)
    signal.sigwait(signals)


if __name__ == "__main__":
    main()
