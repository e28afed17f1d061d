"""A real Prometheus with the scaled rules, and what its API says of the alerts."""

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml  # type: ignore[import-untyped]

from tests.alerts import rules
from tests.alerts.faults.scale import EVALUATE_SECONDS, FACTOR, SCRAPE_SECONDS, THRESHOLDS, WINDOW_MIN_SECONDS
from tests.infrastructure.reaper import Reaper
from tests.infrastructure.waiting import eventually, free_port

START_SECONDS = 30

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Targets:
    """Addresses to scrape of one job. With `tls`, by https with a certificate of any authority."""

    job: str
    addresses: Sequence[str]
    tls: bool = False


def configuration(targets: Iterable[Targets], folder: Path) -> dict[str, Any]:
    """Return the configuration, and write the scaled rules that it names. Jobs are named as in production."""
    jobs = {job["job_name"] for job in rules.configuration()["scrape_configs"]}
    scrapes = []
    for one in targets:
        assert one.job in jobs
        scrape: dict[str, Any] = {"job_name": one.job, "static_configs": [{"targets": list(one.addresses)}]}
        if one.tls:  # Prometheus wants another name for a second job
            scrape |= {"job_name": f"{one.job} tls", "scheme": "https", "tls_config": {"insecure_skip_verify": True}}
            scrape["relabel_configs"] = [{"target_label": "job", "replacement": one.job}]
        scrapes.append(scrape)
    for path in rules.RULES:
        (folder / path.name).write_text(rules.scaled(path.read_text(), FACTOR, WINDOW_MIN_SECONDS, THRESHOLDS))
    seconds = f"{SCRAPE_SECONDS * 1000:.0f}ms"
    evaluation = f"{EVALUATE_SECONDS * 1000:.0f}ms"
    return {
        "global": {"scrape_interval": seconds, "scrape_timeout": seconds, "evaluation_interval": evaluation},
        "rule_files": [path.name for path in rules.RULES],
        "scrape_configs": scrapes,
    }


def _started(targets: Sequence[Targets], folder: Path, port: int, log: Path) -> "subprocess.Popen[bytes]":
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration(targets, folder)))
    command = [rules.tool("prometheus"), f"--config.file={folder}/prometheus.yml"]
    command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with log.open("wb") as output:
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)


class Prometheus:
    """The server, asked over HTTP."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    @classmethod
    async def start(
        cls, targets: Sequence[Targets], folder: Path, reaper: Reaper, session: aiohttp.ClientSession
    ) -> "Prometheus":
        """Start the server; return when every target answers."""
        port = free_port()
        log = folder / "log"
        process = _started(targets, folder, port, log)
        reaper.process(process)
        server = cls(f"http://127.0.0.1:{port}", session)
        missing = {(one.job, address) for one in targets for address in one.addresses}

        async def all_up() -> bool:
            assert process.poll() is None, log.read_text()
            for one in await server.query("up == 1"):
                missing.discard((one["metric"]["job"], one["metric"]["instance"]))
            return not missing

        try:
            await eventually(all_up, START_SECONDS, "answers of all targets")
        except AssertionError:
            state = await server._get("/api/v1/targets", {})
            errors = [one["lastError"] for one in state["activeTargets"] if one["lastError"]]
            raise AssertionError(f"{sorted(missing)} do not answer: {errors}") from None
        return server

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression now; nothing while the server starts."""
        found = await self._get("/api/v1/query", {"query": expression})
        return found.get("result", [])  # type: ignore[no-any-return]

    async def firing(self) -> list[Labels]:
        """Return the labels of all alerts that fire now."""
        found = (await self._get("/api/v1/alerts", {})).get("alerts", [])
        return [one["labels"] for one in found if one["state"] == "firing"]

    async def _get(self, path: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        try:
            async with self._session.get(self._url + path, params=parameters) as response:
                if response.status != 200:
                    return {}
                found: dict[str, Any] = (await response.json())["data"]
                return found
        except aiohttp.ClientError:
            return {}
