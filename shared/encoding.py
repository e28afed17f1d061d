"""JSON as every service writes it: in answers, stored answers, events and command lines."""

from typing import Any

import orjson


def encode(body: Any) -> bytes:
    """Return the JSON of a body; timestamps are RFC 3339 in UTC.

    asyncpg's UUIDs are a subclass, which orjson can only write as text.
    """
    return orjson.dumps(body, default=str, option=orjson.OPT_UTC_Z)
