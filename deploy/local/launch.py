"""Replaces itself with a command that must not outlive the supervisor.

Usage: python -I -S launch.py SUPERVISOR_PID SIGNAL UID GID COMMAND...   ("-" for UID and GID: keep the current user)

On Linux the kernel sends SIGNAL to the command when the supervisor dies for any reason. On other systems, or if the
command ignores it, the next `make run` stops the leftover process. It uses only the standard library and starts
quickly, because it runs before every process. It is a program, because code between fork and exec isn't thread-safe.
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
        # After setuid, which clears this flag.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    if os.getppid() != int(supervisor):
        sys.exit("the supervisor died before this command was started")
    os.execvp(sys.argv[5], sys.argv[5:])  # noqa: S606 # the supervisor's own command, without a shell


main()
