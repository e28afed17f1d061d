"""How `make test` gives tests to its workers: whole files, and those that use the running stack to the same worker."""

from xdist.scheduler import LoadFileScheduling

USE_THE_STACK = ("tests/system/", "tests/contract/")


class StackTogether(LoadFileScheduling):  # type: ignore[misc] # untyped
    """Gives out files, and the files of some folders together: a start of the stack takes ten seconds of a core."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what a test has in common with all that go to the same worker."""
        return "the stack" if nodeid.startswith(USE_THE_STACK) else str(super()._split_scope(nodeid))
