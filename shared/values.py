"""Values: dataclasses that nobody may change once they are made.

The type checker holds everybody to that, so the interpreter need not: a frozen dataclass of sixteen fields takes four
times as long to make, and a checkout makes some thirty values.
"""

from typing import TYPE_CHECKING

__all__ = ["value"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen, slots):
        """Return the decorator of a value's class; it is written `@value(frozen=True, slots=True)`."""
        assert frozen
        return dataclass(slots=slots, unsafe_hash=True)
