"""The folder that holds everything local: its lock, what is remembered between runs, and run.json."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class AlreadyRunningError(Exception):
    """Another supervisor works in this folder."""


class NotRunningError(Exception):
    """No supervisor works in this folder, or it isn't ready yet."""


class Folder:
    """Paths and small files in the folder. Files are replaced whole, so that a reader never sees half of one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_json = path / "run.json"
        self.logs = path / "logs"
        self._lock = path / "lock"
        self._remembered = path / "remembered.json"
        self._processes = path / "processes.json"

    def create(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; AlreadyRunningError if another process does. The kernel frees it when we die."""
        with self._lock.open("a+", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunningError(_holder(self._lock)) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def is_locked(self) -> bool:
        try:
            with self._lock.open(encoding="ascii") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def start_logs(self, names: list[str]) -> None:
        """Begin new log files; those of the run before stay as `.log.1`."""
        for name in names:
            if self.log(name).exists():
                self.log(name).replace(self.logs / f"{name}.log.1")

    def remembered(self) -> Json:
        """What earlier runs chose: ports and passwords."""
        return _read(self._remembered)

    def remember(self, **values: Any) -> None:
        _write(self._remembered, self.remembered() | values)

    def password(self, role: str) -> str:
        """The password of a database role: made once, then remembered."""
        passwords: dict[str, str] = self.remembered().get("passwords", {})
        if role not in passwords:
            passwords[role] = secrets.token_urlsafe(24)
            self.remember(passwords=passwords)
        return passwords[role]

    def processes(self) -> list[Json]:
        """The processes that were started and not seen to end: `{"name", "pid", "started"}`, in order of start."""
        found: list[Json] = _read(self._processes).get("processes", [])
        return found

    def write_processes(self, processes: list[Json]) -> None:
        _write(self._processes, {"processes": processes})

    def write_run(self, run: Json) -> None:
        _write(self.run_json, run)

    def remove_run(self) -> None:
        self.run_json.unlink(missing_ok=True)

    def read_run(self) -> Json:
        """What runs where; NotRunningError when nothing does."""
        run = _read(self.run_json)
        if not run or not self.is_locked():
            raise NotRunningError
        return run


def _holder(lock: Path) -> str:
    """The pid of who holds the lock, for a message only."""
    try:
        return lock.read_text("ascii") or "unknown"
    except OSError:
        return "unknown"


def _read(path: Path) -> Json:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write(path: Path, value: Json) -> None:
    """Replace the file in one step. Readable by its owner only: DSNs and passwords are in it."""
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
