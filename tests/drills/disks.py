"""Small disks, which a drill can fill: files that are mounted as ext4. Only root can mount them."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.infrastructure.reaper import Reaper

BLOCK = 1024  # the smallest of ext4


@dataclass(slots=True)
class Disk:
    """A mounted disk; `folder` is on it."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Take all free space, while others may write as well."""
        taken, step = 0, 1 << 30
        with self._ballast.open("wb") as ballast:
            while step >= BLOCK:
                try:
                    os.posix_fallocate(ballast.fileno(), taken, step)
                except OSError:
                    taken = ballast.seek(0, os.SEEK_END)
                    step //= 2
                else:
                    taken += step

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink()

    @property
    def left_megabytes(self) -> int:
        """Return the free space."""
        return shutil.disk_usage(self.folder).free >> 20


def small_disk(reaper: Reaper, at: Path, megabytes: int) -> Disk | str:
    """Mount a disk; it is unmounted when the reaper ends. Return why not if this machine can't."""
    if os.geteuid() != 0:
        return "only root can mount a small disk"
    for program in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(program) is None:
            return f"{program} is missing"
    at.mkdir(parents=True)
    image = at.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    # Without space that only root may use: the servers run as other users, and the ballast must take all of it.
    options = ["-q", "-F", "-m", "0", "-b", str(BLOCK)]
    subprocess.run(["mkfs.ext4", *options, str(image)], check=True, capture_output=True)
    reaper.mount(at)
    mounted = subprocess.run(["mount", "-o", "loop", image, at], check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        return f"mount: {mounted.stderr.strip()}"
    folder = at / "folder"
    folder.mkdir()
    folder.chmod(0o755)
    return Disk(folder)
