"""A process says what it was built from."""

import pytest

from shared.process import build


@pytest.mark.parametrize(
    ("environment", "version", "revision"),
    [
        ({}, build.VERSION, ""),
        ({"BUILD_VERSION": "1.4.2", "BUILD_REVISION": "f2386d2f"}, "1.4.2", "f2386d2f"),
        ({"BUILD_VERSION": ""}, build.VERSION, ""),  # an image that was built without arguments
    ],
)
def test_build_is_that_of_the_image_or_of_the_code(
    environment: dict[str, str], version: str, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BUILD_VERSION", "BUILD_REVISION"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    build.INFO.clear()
    build.announce("any")
    (family,) = build.INFO.collect()
    assert [sample.labels for sample in family.samples] == [
        {"service": "any", "version": version, "revision": revision}
    ]
