"""The environment of our processes: silent third parties, an allocator that keeps buffers, one thread."""

import json
import os
import subprocess
import sys

from shared import environment

SHOW = """
import json, os, sys
sys.path.insert(0, {root!r})
from shared.environment import restart_with_settings
restart_with_settings()
print(json.dumps({{"environment": dict(os.environ), "arguments": sys.argv[1:]}}))
"""
ROOT = os.fspath(__import__("pathlib").Path(__file__).parents[2])


def start(given: dict[str, str]) -> dict[str, dict[str, str]]:
    """A process that restarts itself with the settings and tells what it then sees."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "FLWR", "OMP", "MKL"))}
    done = subprocess.run(
        [sys.executable, "-c", SHOW.format(root=ROOT), "one", "two words"],
        env={**clean, **given},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


def test_a_process_restarts_once_with_every_setting_and_its_own_arguments() -> None:
    seen = start({})
    wanted = environment.SILENCE | environment.ALLOCATOR | environment.THREADS
    assert {name: seen["environment"][name] for name in wanted} == wanted
    assert seen["arguments"] == ["one", "two words"]


def test_a_user_s_own_allocator_setting_is_left_alone() -> None:
    assert start({"MALLOC_TRIM_THRESHOLD_": "123"})["environment"]["MALLOC_TRIM_THRESHOLD_"] == "123"


def test_telemetry_is_off_even_where_somebody_switched_it_on() -> None:
    assert start({"FLWR_TELEMETRY_ENABLED": "1"})["environment"]["FLWR_TELEMETRY_ENABLED"] == "0"


def test_nothing_is_missing_after_the_settings_were_applied() -> None:
    given = {"HOME": "/", "FLWR_TELEMETRY_ENABLED": "1"}
    assert environment.settings(given | environment.settings(given)) == {}
