"""An image can be built again: a second build, without the first one's cache, has the same files and configuration."""

import json
import os
from collections.abc import Mapping
from typing import Any

import pytest

from tests.containers.engine import CONTEXTS, build, run

# The one that also installs Debian's packages, and has the code of all services; at night each image.
NAMES = list(CONTEXTS) if os.environ.get("IMAGES_ALL") else ["ops"]

# Prints the type, permissions, owner and content of every file that an image has.
FILES = """
import hashlib, os, stat
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = [one for one in folders if one not in ("proc", "sys", "dev")]
    folders.sort()
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        if path in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.dockerenv"):
            continue  # the engine writes them for each container
        found = os.lstat(path)
        content = ""
        if stat.S_ISLNK(found.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(found.st_mode):
            with open(path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
        print(stat.filemode(found.st_mode), found.st_uid, found.st_gid, path, content, sep="\\t")
"""


def files(image: str) -> set[str]:
    as_root = ["docker", "run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "python", image]
    return set(run([*as_root, "-c", FILES]).splitlines())


def configuration(image: str) -> dict[str, Any]:
    (described,) = json.loads(run(["docker", "inspect", image]))
    # Some builders note the layer below, whose id depends on the time.
    return {key: value for key, value in described["Config"].items() if key != "Image"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_second_build_of_an_image_equals_the_first(images: Mapping[str, str], name: str) -> None:
    again = build(name, tag="again", cached=False)
    assert files(again) ^ files(images[name]) == set()
    assert configuration(again) == configuration(images[name])
