"""The code of every stand-in: serves HTTP until SIGTERM, writes POST bodies to a file, and misbehaves on request.

STAND_IN_<NAME>: `exit:N` ends immediately with status N, `unready` never becomes ready, `stubborn` ignores SIGTERM.
While there is a file `refuses-<name>`, commands of this service fail.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# What the client for Python callers wants to see, of an account, an entry, a product and a coupon.
ANY: dict[str, Any] = {
    "user_id": "alice",
    "balance": 0,
    "currency": "KRW",
    "entry_id": "019a0c1e-7d52-7c3a-9b1f-2f4e8a6d0c11",
    "number": 1,
    "kind": "charge",
    "counter_account": "funding",
    "balance_after": 0,
    "created_at": "2026-01-05T09:30:00Z",
    "status": "AVAILABLE",
    "min_subtotal": 0,
}


def main(name: str) -> None:
    mode = os.environ.get(f"STAND_IN_{name.upper()}", "")
    folder = Path(os.environ["LOCAL_DIR"])
    with (folder / f"calls-{name}").open("a") as calls:
        calls.write(f"{' '.join(sys.argv[1:]) or 'serve'}\n")
    if sys.argv[1:]:
        sys.exit(1 if (folder / f"refuses-{name}").exists() else 0)
    if mode.startswith("exit:"):
        print(f"setting {name.upper()}_EXAMPLE: is wrong", file=sys.stderr)
        sys.exit(int(mode.removeprefix("exit:")))
    # Waited for, not handled: a handler could run just before a wait that it was to end.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server = ThreadingHTTPServer(
        ("127.0.0.1", int(os.environ[f"{name.upper()}_PORT"])), handler(folder / f"kept-{name}", mode)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while signal.sigwait({signal.SIGTERM}) and mode == "stubborn":
        pass
    with (folder / "stopped").open("a") as stopped:
        stopped.write(f"{name}\n")


def handler(kept: Path, mode: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/readyz":
                self.reply(503 if mode == "unready" else 200)
            else:
                known = kept.exists() and self.path + "/charges" in kept.read_text().splitlines()
                if known:
                    self.reply(200, ANY)
                else:
                    self.reply(404, {"type": "/problems/account-not-found", "status": 404})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            identity = body.get("product_id") or body.get("coupon_id") or ""
            key = f"{self.path}{identity}"
            if kept.exists() and key in kept.read_text().splitlines():
                kind = "product" if "product_id" in body else "coupon"
                self.reply(409, {"type": f"/problems/{kind}-exists", "status": 409})
                return
            with kept.open("a") as file:
                file.write(f"{key}\n")
            self.reply(201, ANY | body)

        def reply(self, status: int, body: Mapping[str, Any] | None = None) -> None:
            content = json.dumps(body or {}).encode()
            self.send_response(status)
            problem = "type" in (body or {})
            self.send_header("Content-Type", "application/problem+json" if problem else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Log nothing: the log must have only what the test prints."""

    return Handler
