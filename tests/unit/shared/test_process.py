"""A service as a process: what ends it, and how."""

import signal
import subprocess
import sys

HANGING_SERVICE = """
import asyncio
from pathlib import Path

from shared import process
from shared.settings import ServiceSettings

process.STOP_MAX_SECONDS = 0.2


class Settings(ServiceSettings):
    port: int = 1
    database_url: str = "postgresql://nowhere/x"


async def serve(settings, stop):
    print("serving", flush=True)
    await asyncio.Event().wait()


process.main(process.Service("hanging", Settings, "hanging", Path("."), serve))
"""


def test_a_stop_that_hangs_is_ended_all_the_same_and_says_so() -> None:
    with subprocess.Popen([sys.executable, "-c", HANGING_SERVICE], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == "serving\n"
        service.send_signal(signal.SIGTERM)
        output, _ = service.communicate(timeout=20)
    assert service.returncode == 1
    assert "stop took too long" in output
