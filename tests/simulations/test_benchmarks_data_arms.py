"""The arms that measure a site's data path, at toy size: that they do the work they are measured by."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import pydicom
import pytest

from client.data.archive.archive import Archive

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class Modules(Protocol):
    def __call__(self, name: str) -> ModuleType: ...


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Modules:
    """A module of the benchmarks; they are scripts, not a package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.parametrize("name", ["raw", "RLE", "JPEG-LS", "JPEG 2000"])
def test_every_encoding_of_a_series_holds_the_same_pixels(module: Modules, tmp_path: Path, name: str) -> None:
    ingest = module("ingest")
    paths = ingest.written(tmp_path / "series", ingest.ENCODINGS[name], 2)
    files = [pydicom.dcmread(path) for path in paths]
    assert {file.file_meta.TransferSyntaxUID for file in files} == {ingest.ENCODINGS[name]}
    assert all(np.array_equal(file.pixel_array, made) for file, made in zip(files, ingest._anatomy(2), strict=True))


def test_a_series_is_taken_in_whole_and_as_one_case(
    module: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = module("ingest")
    paths = ingest.written(tmp_path / "series", ingest.ENCODINGS["raw"], 3)
    shapes: list[tuple[int, ...]] = []
    into_archive = ingest.into_archive

    def watched(archive: Archive, *rest: object, **more: object) -> None:
        into_archive(archive, *rest, **more)
        shapes.extend(record.shape for record in archive.records())

    monkeypatch.setattr(ingest, "into_archive", watched)
    assert ingest.taken_in(paths, 1) == 1
    assert shapes == [(1, 3, 512, 512)]


def test_a_renamed_series_is_another_case(module: Modules, tmp_path: Path) -> None:
    ingest = module("ingest")
    first = ingest.written(tmp_path / "series", ingest.ENCODINGS["raw"], 2)
    others = [path for number in range(2) for path in ingest._renamed(first, tmp_path / f"series{number}")]
    assert ingest.taken_in([*first, *others], 1) == 3


def test_a_speed_is_how_often_we_are_done_while_the_other_side_is_done_once(module: Modules) -> None:
    took = {"a pydicom": [6.0, 8.0], "b pydicom": [2.0, 2.0], "a ours": [3.0, 4.0], "b ours": [1.0, 6.0]}
    clocked = {f"{key} {clock}": seconds for key, seconds in took.items() for clock in ("wall", "cpu")}
    wall, cpu = module("ingest")._speed(clocked, ["a", "b"])
    assert wall == cpu == (2.0, 1.0)


def test_each_small_case_is_diagnosed_and_frozen(module: Modules, tmp_path: Path) -> None:
    cohort, folder = module("cohort"), tmp_path / "archive"
    assert cohort.fill(str(folder), 40) == {"cases": 40}
    with Archive.open(folder) as archive:
        assert len({record.patient for record in archive.records()}) == 14
        assert not list(archive.measurements())
    assert cohort.look(str(folder))["cases"] == 40
    with Archive.open(folder) as archive:
        assert len(list(archive.measurements())) == 40
    assert cohort.hold(str(folder))["cases"] == 40


def test_small_cases_are_made_the_same_way_each_time_and_none_twice(module: Modules, tmp_path: Path) -> None:
    cohort, digests = module("cohort"), list[list[str]]()
    for folder in (tmp_path / "one", tmp_path / "other"):
        cohort.fill(str(folder), 40)
        with Archive.open(folder) as archive:
            digests.append([record.sha256 for record in archive.records()])
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 40
