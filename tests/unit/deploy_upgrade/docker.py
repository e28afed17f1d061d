"""Stands in for `docker` and docker-compose: containers are entries of a file, in which each call is recorded too.

It is started as either program, by a link with that name in a folder with `state.json`.
"""

import json
import sys
from pathlib import Path
from typing import Any

STATE = Path(sys.argv[0]).parent / "state.json"


def value_after(word: str, words: list[str]) -> str:
    return words[words.index(word) + 1]


def compose(state: dict[str, Any], words: list[str]) -> None:
    """Answer as docker-compose does."""
    service = words[-1]
    if "ps" in words:
        print("\n".join(name for name, one in state["containers"].items() if one["service"] == service))
    elif "up" in words:
        scale = int(value_after("--scale", words).partition("=")[2])
        while len([one for one in state["containers"].values() if one["service"] == service]) < scale:
            state["made"] += 1
            state["containers"][f"new-{state['made']}"] = {"service": service, "ready": state["new_are_ready"]}
    elif "run" in words and state["migration_fails"]:
        state["log"].append("failed")
        STATE.write_text(json.dumps(state))
        sys.exit("the migration failed")


def docker(state: dict[str, Any], words: list[str]) -> None:
    """Answer as docker does."""
    if words[0] == "compose":
        sys.exit("docker: 'compose' is not a docker command")
    if words[0] == "ps":
        service = next(word for word in words if "compose.service=" in word).rpartition("=")[2]
        found = [name for name, one in reversed(state["containers"].items()) if one["service"] == service]
        print("\n".join(name for name in found if "--all" in words or not state["containers"][name].get("ended")))
    elif words[0] == "inspect":
        one = state["containers"][words[1]]
        labels = {"project": "shop", "service": one["service"], "oneoff": "False"}
        print(
            json.dumps(
                [
                    {
                        "RestartCount": one.get("restarts", 0),
                        "State": {"Running": True},
                        "Config": {
                            "Labels": {f"com.docker.compose.{key}": value for key, value in labels.items()},
                            "Healthcheck": {"Test": ["CMD", "ask", "http://127.0.0.1/livez"]},
                        },
                        "NetworkSettings": {"Networks": {"shared": {"IPAddress": f"address-of-{words[1]}"}}},
                    }
                ]
            )
        )
    elif words[0] == "exec" and "/readyz" in words[-1]:
        sys.exit(0 if state["containers"][words[1]]["ready"] else 1)
    elif words[0] == "rm":
        del state["containers"][words[-1]]


def main() -> None:
    """Answer one call."""
    state = json.loads(STATE.read_text())
    program, words = Path(sys.argv[0]).name, sys.argv[1:]
    if words[0] not in ("ps", "inspect", "compose") and "ps" not in words:
        state["log"].append(" ".join([program, *words]))
    (docker if program == "docker" else compose)(state, words)
    STATE.write_text(json.dumps(state))


if __name__ == "__main__":
    main()
