"""A service that answers nothing, half an answer, or the first line of its request, as its path says."""

import contextlib
import socket
import threading
from collections.abc import Iterator

ANSWERS = {
    b"/v1/accounts/close": b"",
    b"/v1/accounts/headers": b"HTTP/1.1 200 OK\r\nContent-",
    b"/v1/accounts/many": b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n",
}
SILENT = (b"/v1/coupons",)
RESET = b"/v1/accounts/reset"


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """Serve in a thread until the end; its URL."""
    kept: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                kept.append(connection)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in kept:
        connection.close()


def answer(connection: socket.socket) -> None:
    """Answer one request."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    line = received.split(b"\r\n", 1)[0]
    path = line.split(b" ")[1]
    if path in SILENT:
        return
    if path == RESET:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    elif path in ANSWERS:
        connection.sendall(ANSWERS[path])
    else:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(line) + line)
    connection.close()
