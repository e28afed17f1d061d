"""A service that answers nothing, half an answer, the request's first line or its head, depending on the path."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

ANSWERS = {
    b"/v1/accounts/close": b"",
    b"/v1/accounts/headers": b"HTTP/1.1 200 OK\r\nContent-",
    b"/v1/accounts/many": b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n",
}
SILENT = (b"/v1/coupons",)
RESET = b"/v1/accounts/reset"
WHOLE = b"/v1/accounts/whole"


@contextlib.contextmanager
def upstream(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve in a thread until the body ends; yield the URL."""
    kept: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                kept.append(connection)
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        finally:  # a thread that stays would keep the process of a failed test
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


def answer(connection: socket.socket) -> None:
    """Answer one request."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:  # the gateway gave up
            connection.close()
            return
        received += more
    line = received.split(b"\r\n", 1)[0]
    path = line.split(b" ")[1]
    if path in SILENT:
        return
    if path == RESET:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    elif path in ANSWERS:
        connection.sendall(ANSWERS[path])
    else:
        said = received if path == WHOLE else line
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
    connection.close()
