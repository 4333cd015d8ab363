"""Hospitals of 16 x 16 PNG images with a manifest, scenarios over them, and ``consilium-sim`` as a user meets it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tomli_w
from picture_hospitals import EDGE

from shared.environment import settings
from simulations import cli
from simulations.progress import Advance, Silent
from simulations.run import Order
from simulations.run import run as run_scenario
from simulations.scenario import Scenario, load

SEED = 20
"""Under it every site has patients of both classes in every split."""


@dataclass(frozen=True)
class Said:
    """What a command left behind on the terminal."""

    status: int
    out: str
    err: str


def document(**changes: Any) -> dict[str, Any]:
    """A scenario that trains in a fraction of a second; ``section__key=value`` changes it, None drops the key."""
    said: dict[str, Any] = {
        "scenario": {
            "title": "Bright and dark squares",
            "source": {"kind": "manifest", "subgroup_columns": ["sex"]},
        },
        "plan": {"name": "squares", "task": "classification", "rounds": 2, "seed": SEED},
        "data": {"modality": "other", "classes": ["dark", "bright"], "train_fraction": 0.5},
        "preprocessing": {"size": [EDGE, EDGE]},
        "model": {"name": "cnn", "channels": [4, 8], "norm": "group"},
        "training": {"steps": 3, "patients_per_step": 4, "learning_rate": 0.02},
        "privacy": {"unit": "none"},
        "participation": {"quorum": 2, "deadline_s": 60.0},
        "evaluation": {"every": 1, "release": "site"},
    }
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        said.setdefault(section, {})[key] = value
    return said


SEGMENTATION: dict[str, Any] = {
    "plan__task": "segmentation",
    "data__classes": ["background", "square"],
    "model__name": "unet",
    "model__norm": "instance",
}


def write_scenario(folder: Path, **changes: Any) -> Path:
    path = folder / "squares.toml"
    path.write_text(tomli_w.dumps(document(**changes)))
    return path


def scenario(folder: Path, **changes: Any) -> Scenario:
    return load(str(write_scenario(folder, **changes)))


def run(folder: Path, out: str, *, data: Path | None = None, **changes: Any) -> Path:
    """Run the scenario over ``folder``'s hospitals in this process, one worker, without a word."""
    found = scenario(folder, **changes)
    return run_scenario(found, Order(folder / out, data or folder, workers=1), Silent())


def sim(capsys: pytest.CaptureFixture[str], *arguments: object) -> Said:
    """``consilium-sim ARGUMENTS`` in this process: everything but the restart with other settings."""
    capsys.readouterr()
    words = ["consilium-sim", *map(str, arguments)]
    with (
        mock.patch.dict(os.environ, settings(os.environ)),
        mock.patch.object(sys, "argv", words),
        pytest.raises(SystemExit) as left,
    ):
        cli.main()
    said = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return Said(left.value.code, said.out, said.err)


def start_sim(*arguments: object) -> subprocess.Popen[str]:
    """``consilium-sim ARGUMENTS`` as a process of its own, in its own process group like a job of a shell."""
    command = Path(sys.executable).with_name("consilium-sim")
    return subprocess.Popen(
        [command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


class Interrupted(Silent):
    """Progress that raises ``KeyboardInterrupt`` after some units of one stage, as Ctrl-C would."""

    def __init__(self, label: str, after: int) -> None:
        self._label, self._left = label, after

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        def advance(note: str = "", units: int = 1) -> None:  # noqa: ARG001
            self._left -= units if label == self._label else 0
            if self._left < 0:
                raise KeyboardInterrupt

        yield advance


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
