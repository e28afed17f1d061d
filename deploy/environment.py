"""Installs the packages of a lock file in a virtual environment, unless they are installed already.

Usage: python deploy/environment.py DIRECTORY LOCK

It must run on any Python of the machine, to print in one line what is missing. So it imports only the standard library,
and uses the syntax of Python 3.6.
"""

import os
import shutil
import subprocess
import sys
import threading
import time

PYTHON_MINIMUM = (3, 11)  # asyncio.TaskGroup, asyncio.timeout and StrEnum


def interpreter(directory):  # type: (str) -> str
    return os.path.join(directory, "bin", "python")


def same(one, other):  # type: (str, str) -> bool
    try:
        with open(one, "rb") as left, open(other, "rb") as right:
            return left.read() == right.read()
    except OSError:
        return False


def runs(python):  # type: (str) -> bool
    """Return whether this Python starts and has pip: it doesn't if its folder was moved or its base was removed."""
    try:
        return subprocess.call([python, "-c", "import pip"], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def create(directory):  # type: (str) -> None
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        package = "python{}.{}-venv".format(*sys.version_info)
        message = "{} cannot create virtual environments: install its venv package (Debian, Ubuntu: apt install {})"
        sys.exit(message.format(sys.executable, package) + " or name another Python with PYTHON=...")
    shutil.rmtree(directory, ignore_errors=True)
    if subprocess.call([sys.executable, "-m", "venv", directory]) != 0:
        sys.exit("Could not create the virtual environment " + directory)


def show_seconds(process):  # type: (subprocess.Popen[str]) -> None
    """Show on a terminal how long pip takes for what it says nothing about, until it ends."""
    began = time.time()
    while process.poll() is None:
        sys.stderr.write("  {:.0f} s\r".format(time.time() - began))
        sys.stderr.flush()
        time.sleep(1)
    sys.stderr.write("\x1b[K")


def install(directory, lock):  # type: (str, str) -> None
    """Install the lock's packages, and print a line for each; on failure print the end of pip's output."""
    command = [interpreter(directory), "-m", "pip", "install", "-r", lock, "--require-hashes", "--no-deps"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    said = []
    showing = None
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, universal_newlines=True)
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line.rstrip())
        if line.startswith("Collecting "):
            print("  " + line.split()[1], flush=True)
        elif line.startswith("Installing collected packages"):
            print("  unpacking ...", flush=True)
            if sys.stderr.isatty():
                showing = threading.Thread(target=show_seconds, args=(process,))
                showing.start()
    status = process.wait()
    if showing is not None:
        showing.join()
    if status != 0:
        sys.exit("\n".join([*said[-10:], "Could not install " + lock + " into " + directory]))


def main():  # type: () -> None
    if sys.version_info < PYTHON_MINIMUM:
        needed = ".".join(map(str, PYTHON_MINIMUM))
        found = ".".join(map(str, sys.version_info[:3]))
        message = "Python {} or newer is needed, this is {}: name another one with PYTHON=..."
        sys.exit(message.format(needed, found))
    if len(sys.argv) != 3:
        sys.stderr.write("Usage: python deploy/environment.py DIRECTORY LOCK\n")
        sys.exit(2)
    directory, lock = sys.argv[1:]
    # The copy is written last, so an interrupted installation is repeated.
    installed = os.path.join(directory, "installed.lock")
    current = same(lock, installed)
    usable = runs(interpreter(directory))
    if current and usable:
        return
    print("Installing " + lock + " into " + directory + " (once, until it changes)", flush=True)
    if not usable:
        create(directory)
    install(directory, lock)
    shutil.copyfile(lock, installed)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted; run the same command again to continue")
