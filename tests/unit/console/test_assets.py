"""The kept scripts and the style are those of the recorded packages, and pages load nothing else."""

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from deploy.console.assets import STATIC, VENDOR, url
from deploy.console.rendering import TEMPLATES

RECORDS = {path.parent.name: tomllib.loads(path.read_text()) for path in VENDOR.glob("*/RECORD.toml")}
TOKEN = '<input type="hidden" name="form_token" value="{{ visit.form_token }}">'
TEMPLATE_FILES = sorted(TEMPLATES.glob("*.html"))


@pytest.mark.parametrize("package", RECORDS)
def test_kept_files_are_those_of_the_record(package: str) -> None:
    files = [path for path in (VENDOR / package).iterdir() if path.name != "RECORD.toml"]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == RECORDS[package]["sha256"]
    assert "LICENSE" in RECORDS[package]["sha256"]
    assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", RECORDS[package]["integrity"])


def test_records_name_versions_and_licences() -> None:
    assert {name: record["license"] for name, record in RECORDS.items()} == {"htmx.org": "0BSD", "uplot": "MIT"}
    assert {path.name for path in VENDOR.iterdir()} == RECORDS.keys()
    assert f'version:"{RECORDS["htmx.org"]["version"]}"' in (VENDOR / "htmx.org" / "htmx.min.js").read_text()


def test_path_of_a_file_changes_with_its_content() -> None:
    digest = hashlib.sha256((STATIC / "console.css").read_bytes()).hexdigest()
    assert url("console.css") == f"/static/{digest[:16]}/console.css"


@pytest.mark.parametrize("path", TEMPLATE_FILES, ids=lambda path: path.name)
def test_template_has_nothing_that_the_policy_refuses(path: Path) -> None:
    text = path.read_text()
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?! src=)", text)
    assert not re.findall(r"\b(?:src|href|action)=\"(?:https?:)?//", text)
    assert not re.findall(r"hx-(?:on|vals|vars|headers)", text)  # htmx evaluates these


@pytest.mark.parametrize("path", TEMPLATE_FILES, ids=lambda path: path.name)
def test_every_form_that_posts_has_the_token(path: Path) -> None:
    text = path.read_text()
    forms = re.findall(r"<form\b[^>]*method=\"post\".*?</form>", text, re.S)
    assert len(forms) == text.count('method="post"')
    assert all(TOKEN in form or "{{ parts.form_token(visit) }}" in form for form in forms)
    assert TOKEN in (TEMPLATES / "parts.html").read_text()


def test_no_script_evaluates_text_or_loads_from_elsewhere() -> None:
    for path in STATIC.glob("*.js"):
        text = path.read_text()
        assert not re.findall(r"\beval\(|new Function|innerHTML|https?://", text), path.name
