"""The code of every stand-in: serves HTTP until SIGTERM, writes POST bodies to a file, and misbehaves on request.

STAND_IN_<NAME>: `exit:N` ends immediately with status N, `unready` never becomes ready, `stubborn` ignores SIGTERM.
"""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main(name: str) -> None:
    mode = os.environ.get(f"STAND_IN_{name.upper()}", "")
    folder = Path(os.environ["LOCAL_DIR"])
    with (folder / f"calls-{name}").open("a") as calls:
        calls.write(f"{' '.join(sys.argv[1:]) or 'serve'}\n")
    if sys.argv[1:]:
        return
    if mode.startswith("exit:"):
        print(f"setting {name.upper()}_EXAMPLE: is wrong", file=sys.stderr)
        sys.exit(int(mode.removeprefix("exit:")))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: None if mode == "stubborn" else stop.set())
    server = ThreadingHTTPServer(
        ("127.0.0.1", int(os.environ[f"{name.upper()}_PORT"])), handler(folder / f"kept-{name}", mode)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop.wait()
    with (folder / "stopped").open("a") as stopped:
        stopped.write(f"{name}\n")


def handler(kept: Path, mode: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/readyz":
                self.reply(503 if mode == "unready" else 200)
            else:
                known = kept.exists() and self.path + "/charges" in kept.read_text().splitlines()
                self.reply(200 if known else 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            identity = body.get("product_id") or body.get("coupon_id") or ""
            key = f"{self.path}{identity}"
            if kept.exists() and key in kept.read_text().splitlines():
                self.reply(409)
                return
            with kept.open("a") as file:
                file.write(f"{key}\n")
            self.reply(201)

        def reply(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Log nothing: the log must have only what the test prints."""

    return Handler
