"""The federation on Flower's own engine gives the bytes of the in-process engine, through real Flower apps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason='needs pip install "consilium[ray]"')

SCENARIO = """
[scenario]
title = "Two small hospitals"
source = { kind = "phantoms", hospitals = 2, size = "tiny" }

[plan]
name = "two-hospitals"
task = "classification"
rounds = 2
seed = 7

[data]
modality = "ct"
classes = ["benign", "malignant"]

[preprocessing]
size = [16, 16]
fit = "stretch"
intensity = { kind = "window", low = -160, high = 240 }

[model]
name = "cnn"
channels = [4, 8]
norm = "group"

[training]
steps = 3
patients_per_step = 4
learning_rate = 1e-3

[aggregation]
method = "fedadam"
server_learning_rate = 0.01

[privacy]
unit = "none"

[participation]
quorum = 2
deadline_s = 500

[evaluation]
every = 1
release = "site"

[personalisation]
steps = 2
learning_rate = 1e-3
"""


def run(folder: Path, engine: str) -> Path:
    out = folder / engine
    scenario = folder / "two.toml"
    scenario.write_text(SCENARIO, encoding="utf-8")
    command = [sys.executable, "-c", "from simulations.cli import main; main()", "run", str(scenario)]
    done = subprocess.run(
        [*command, "--out", str(out), "--workers", "1", "--engine", engine],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.mark.network
def test_two_sites_and_two_rounds_on_ray_give_the_bytes_of_the_in_process_engine(tmp_path: Path) -> None:
    here, there = run(tmp_path, "inprocess"), run(tmp_path, "ray")
    files = [
        {
            path.relative_to(out): path.read_bytes()
            for name in ("checkpoints", "server-state")
            for path in (out / name).iterdir()
        }
        for out in (here, there)
    ]
    assert len(files[0]) >= 4
    assert files[0] == files[1]
    final = [json.loads((out / "results.json").read_text()) for out in (here, there)]
    assert final[0]["final"] == final[1]["final"]
    assert final[0]["personalised"] == final[1]["personalised"]
