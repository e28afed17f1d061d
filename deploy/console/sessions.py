"""Sessions of signed-in operators, in memory; and the tokens of forms, for all visitors."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.contracts.scopes import Scope
from shared.identity.callers import Caller

SESSIONS_MAX = 1000
ID_BYTES = 32


@dataclass(frozen=True, slots=True)
class Session:
    """An operator who has signed in with a token. It ends when the token does."""

    id_: str = field(repr=False)
    token: str = field(repr=False)
    caller: Caller

    @property
    def expires_at(self) -> float:
        """Return the time of its end, in seconds since the epoch."""
        return self.caller.expires_at

    def has(self, scope: Scope) -> bool:
        """Return whether the operator may do what needs `scope`."""
        return self.caller.has(scope)


class Sessions:
    """All sessions of this process. `clock` returns seconds since the epoch, as tokens have them."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._key = secrets.token_bytes(ID_BYTES)

    @property
    def count(self) -> int:
        """Return how many sessions have not ended."""
        now = self._clock()
        return sum(now < one.expires_at for one in self._sessions.values())

    def begin(self, token: str, caller: Caller) -> Session:
        """Begin a session, with an id of its own: one that the browser had before may be known to others."""
        now = self._clock()
        self._sessions = {id_: one for id_, one in self._sessions.items() if now < one.expires_at}
        if len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        session = Session(new_id(), token, caller)
        self._sessions[session.id_] = session
        return session

    def find(self, id_: str | None) -> Session | None:
        """Return the session with this id, unless it has ended."""
        session = None if id_ is None else self._sessions.get(id_)
        if session is not None and self._clock() >= session.expires_at:
            del self._sessions[session.id_]
            return None
        return session

    def end(self, id_: str) -> None:
        """End a session."""
        self._sessions.pop(id_, None)

    def form_token(self, visitor: str) -> str:
        """Return the token of the forms of a visitor: of a session, or of a browser without one."""
        return hmac.new(self._key, visitor.encode(), hashlib.sha256).hexdigest()

    def is_form_token(self, visitor: str | None, token: str) -> bool:
        """Return whether a form has the token of its visitor."""
        return visitor is not None and hmac.compare_digest(self.form_token(visitor).encode(), token.encode())


def new_id() -> str:
    """Return an id that nobody can guess."""
    return secrets.token_urlsafe(ID_BYTES)
