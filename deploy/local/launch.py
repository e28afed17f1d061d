"""Starts a command that shall not outlive the supervisor, then becomes it.

Usage: python -I -S launch.py SUPERVISOR_PID SIGNAL UID GID COMMAND...   (UID and GID are "-": stay who you are)

On Linux the kernel sends SIGNAL to the command when the supervisor dies, however it dies. Elsewhere, and if the
command ignores it, the next `make run` stops what was left. Standard library only, and quick to start: it stands
before every process. It is a program of its own as code between fork and exec isn't safe beside threads.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    supervisor, signal_number, uid, gid = sys.argv[1:5]
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        # After setuid, which clears it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    if os.getppid() != int(supervisor):
        sys.exit("the supervisor died before this was started")
    os.execvp(sys.argv[5], sys.argv[5:])  # noqa: S606 # the supervisor's own command, without a shell


main()
