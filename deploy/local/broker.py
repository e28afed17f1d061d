"""The embedded broker as a process of its own: `python -m deploy.local.broker --port 19092 --topic orders.v1:4`.

Prints its address in one line once clients can connect, and runs until SIGTERM or SIGINT. It forgets everything then.
"""

import argparse
import os
import signal
import sys

from deploy.local.mock_cluster import LOOPBACK, MockCluster, MockClusterError


def topic(text: str) -> tuple[str, int]:
    """Parse `name:partitions`."""
    name, _, partitions = text.rpartition(":")
    if not name or not (partitions.isascii() and partitions.isdigit()) or int(partitions) < 1:
        raise argparse.ArgumentTypeError(f"a topic is given as NAME:PARTITIONS (got {text!r})")
    return name, int(partitions)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.broker", description="An in-memory Kafka broker.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free port")
    parser.add_argument(
        "--topic", type=topic, action="append", default=[], metavar="NAME:PARTITIONS", dest="topics",
        help="create this topic; others are created with 4 partitions when they are asked for",
    )  # fmt: skip
    arguments = parser.parse_args()
    # Blocked before the library starts its threads, which inherit it: the signal is for sigwait.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        cluster = MockCluster(arguments.port)
        for name, partitions in arguments.topics:
            cluster.create_topic(name, partitions)
    except OSError as error:
        print(f"port {arguments.port}: {os.strerror(error.errno or 0)}", file=sys.stderr)
        sys.exit(2)
    except MockClusterError as error:
        sys.exit(str(error))
    print(f"{LOOPBACK}:{cluster.port}", flush=True)
    signal.sigwait(signals)


if __name__ == "__main__":
    main()
