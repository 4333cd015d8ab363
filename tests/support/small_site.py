"""``consilium-site`` as hospital IT meets it, over a hospital of sixteen PNG images or a few DICOM series."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest
from picture_hospitals import write_hospitals
from small_hospitals import Said

from client import cli
from shared.environment import settings

HOSPITAL = "aachen"
TABLE = ("--column", "file=image", "--column", "patient_id=patient", "--where", f"site={HOSPITAL}")


def site(capsys: pytest.CaptureFixture[str], *arguments: object, environ: Mapping[str, str] | None = None) -> Said:
    """``consilium-site ARGUMENTS`` in this process."""
    capsys.readouterr()
    words = ["consilium-site", *map(str, arguments)]
    with (
        mock.patch.dict(os.environ, settings(os.environ) | dict(environ or {})),
        mock.patch.object(sys, "argv", words),
        pytest.raises(SystemExit) as left,
    ):
        cli.main()
    said = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return Said(left.value.code, said.out, said.err)


def write_hospital(folder: Path, patients: int = 8) -> tuple[object, ...]:
    """One hospital with two images a patient; gives what ``ingest`` takes besides ``--dataset`` and ``--site``."""
    write_hospitals(folder, {HOSPITAL: patients})
    return folder / HOSPITAL, "--labels", folder / "manifest.csv", *TABLE, "--workers", 1
