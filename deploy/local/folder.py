"""The local folder: its lock, the data kept between runs, and run.json."""

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
    """Another supervisor uses this folder."""


class NotRunningError(Exception):
    """No supervisor uses this folder, or it isn't ready yet."""


class Folder:
    """The folder's paths and small files. Each file is replaced in one step, so a reader never sees a partial one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_json = path / "run.json"
        self.logs = path / "logs"
        self.issuer_key = path / "issuer.pem"
        self._lock = path / "lock"
        self._remembered = path / "remembered.json"
        self._processes = path / "processes.json"

    def create(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)

    def may_be_removed(self) -> bool:
        """Return whether it is a run's folder, and neither the home directory nor this checkout is in it."""
        kept = (Path.home().resolve(), Path(__file__).resolve())
        made_here = self._lock.is_file() or self.path.name == ".local"
        return made_here and not any(path.is_relative_to(self.path) for path in kept)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder. Raises AlreadyRunningError if another process holds it. The kernel frees it when we die."""
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
        """Begin new log files; those of the previous run are kept as `.log.1`."""
        for name in names:
            if self.log(name).exists():
                self.log(name).replace(self.logs / f"{name}.log.1")

    def remembered(self) -> Json:
        """Return what earlier runs chose: ports and passwords."""
        return _read(self._remembered)

    def remember(self, **values: Any) -> None:
        _write(self._remembered, self.remembered() | values)

    def password(self, role: str) -> str:
        """Return the password of a database role; it is generated once and stored."""
        passwords: dict[str, str] = self.remembered().get("passwords", {})
        if role not in passwords:
            passwords[role] = secrets.token_urlsafe(24)
            self.remember(passwords=passwords)
        return passwords[role]

    def processes(self) -> list[Json]:
        """Return the processes that may still run: `{"name", "pid", "started"}`, in order of start."""
        found: list[Json] = _read(self._processes).get("processes", [])
        return found

    def write_processes(self, processes: list[Json]) -> None:
        _write(self._processes, {"processes": processes})

    def write_run(self, run: Json) -> None:
        _write(self.run_json, run)

    def remove_run(self) -> None:
        self.run_json.unlink(missing_ok=True)

    def read_run(self) -> Json:
        """Return the addresses of the local run. Raises NotRunningError if there is none."""
        run = _read(self.run_json)
        if not run or not self.is_locked():
            raise NotRunningError
        return run


def write_secrets(path: Path) -> None:
    """Create the file with the secrets of a participant's callers, for its owner only, unless it exists."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text("".join(f"{caller} {secrets.token_urlsafe(32)}\n" for caller in ("order", "audit")))


def _holder(lock: Path) -> str:
    """Return the pid of the lock's holder, for a message only."""
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
    """Replace the file in one step. Only its owner can read it, because it contains DSNs and passwords."""
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
