"""Ingest: from a folder of DICOM files to an archive, against pydicom reading and decoding the same files.

``ingest`` makes the rows of the table; the other functions are arms of processes of their own. The files are CT series
of 512² slices of 12 bits, written on the spot: smooth organs and noise of a scanner, which compress like a patient. Our
side finds the files, hashes every byte, checks geometry, header and pixels, looks for burned-in text, makes Hounsfield
units, and stores them, hashed and on the disk, in a new archive; pydicom hands out stored values and drops them. Both
sides read files that are in the page cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from bench import CORES, QUICK, Bench
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from rows import Row, Target, ratios

from client.data.archive.archive import Archive
from client.data.case_files import Salt
from client.data.ingest.ingest import ingest as into_archive
from client.data.ingest.reading import Rules
from client.data.source.discover import discover
from client.data.source.found import Wanted
from shared.seeds import generator

Turns = dict[str, list[float]]
Work = Callable[[], object]

ENCODINGS = {
    "raw": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
_EDGE, _SERIES = 512, 8
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_SALT = Salt("benchmark", bytes(32))


def ingest(bench: Bench) -> Iterator[Row]:
    """Slices a second of one core, for each way of compressing them and for all together; what more cores add."""
    repeats, target = bench.scale.repeats, Target("at least", 0.9)
    slices = 8 if bench.scale == QUICK else 72
    took = bench.tuned("ingest.one_core", beside=bench.stores, slices=slices, repeats=repeats)().said
    against = "pydicom reading and decoding them"
    for name in ENCODINGS:
        yield Row(f"ingest: CT slices, {name}", against, "x", *_speed(took, [name]), target)
    yield Row("ingest: CT slices, JPEG-LS", f"{against}, with pyjpegls", "x", *_speed(took, ["JPEG-LS"], "pyjpegls"))
    yield Row("ingest: as many CT slices of each", against, "x", *_speed(took, list(ENCODINGS)), target)
    mib = 2 * _EDGE**2 * slices / 2**20
    wall, cpu = (tuple(mib / seconds for seconds in took[f"raw ours {clock}"]) for clock in _CLOCKS)
    yield Row("ingest: CT slices, raw", "", "MiB/s", wall, cpu)
    turns = bench.tuned("ingest.all_cores", beside=bench.stores, slices=slices // 3, repeats=repeats)().said
    what = f"ingest: {_SERIES} CT series, JPEG 2000: time of one process"
    yield Row(what, f"{CORES} processes, one for each core", "x", ratios(turns["one wall"], turns["all wall"]))


def one_core(beside: str, slices: int, repeats: int) -> Turns:
    """Seconds to take in each series once, by each side."""
    turns: Turns = {}
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        for name, syntax in ENCODINGS.items():
            paths = written(Path(folder) / name, syntax, slices)
            ways: dict[str, Work] = {"ours": partial(taken_in, paths, 1), "pydicom": partial(_decoded, paths)}
            if syntax == JPEGLSLossless:
                ways["pyjpegls"] = partial(_decoded_with, "pyjpegls", paths)
            turns |= {f"{name} {side}": seconds for side, seconds in _in_turns(ways, repeats).items()}
    return turns


def all_cores(beside: str, slices: int, repeats: int) -> Turns:
    """Seconds to take in several series, by one process and by one for each core."""
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        first = written(Path(folder) / "series", JPEG2000Lossless, slices)
        paths = [path for number in range(_SERIES) for path in _renamed(first, Path(folder) / f"series{number}")]
        return _in_turns({"one": partial(taken_in, paths, 1), "all": partial(taken_in, paths, CORES)}, repeats)


def taken_in(paths: Sequence[Path], workers: int) -> int:
    """Ingest files of whole series into a new archive; how many cases it holds."""
    with tempfile.TemporaryDirectory(dir=paths[0].parent.parent) as folder:
        found = discover(Wanted(tuple(dict.fromkeys(path.parent for path in paths))), _SALT)
        with Archive.open_or_create(Path(folder)) as archive:
            into_archive(archive, found, Rules(), _SALT, workers=workers)
            return len(archive)


def _decoded(paths: Sequence[Path]) -> None:
    for path in paths:
        _ = pydicom.dcmread(path).pixel_array


def _decoded_with(plugin: str, paths: Sequence[Path]) -> None:
    for path in paths:
        file = pydicom.dcmread(path)
        file.pixel_array_options(decoding_plugin=plugin)
        _ = file.pixel_array


def _speed(
    took: Mapping[str, Sequence[float]], names: Sequence[str], side: str = "pydicom"
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Our throughput in multiples of the other side's, turn by turn; by wall and by CPU time."""
    wall, cpu = (
        ratios(*(_together(took, [f"{name} {one} {clock}" for name in names]) for one in (side, "ours")))
        for clock in _CLOCKS
    )
    return wall, cpu


def _together(took: Mapping[str, Sequence[float]], keys: Sequence[str]) -> list[float]:
    return [sum(turn) for turn in zip(*(took[key] for key in keys), strict=True)]


def _in_turns(ways: Mapping[str, Work], repeats: int) -> Turns:
    """Once each to warm up, then A B A B ...; seconds by each clock."""
    for work in ways.values():
        work()
    turns: Turns = {f"{name} {clock}": [] for name in ways for clock in _CLOCKS}
    for _ in range(repeats):
        for name, work in ways.items():
            began = {clock: read() for clock, read in _CLOCKS.items()}
            work()
            for clock, read in _CLOCKS.items():
                turns[f"{name} {clock}"].append(read() - began[clock])
    return turns


def written(folder: Path, syntax: UID, slices: int) -> list[Path]:
    """A series on the disk, a file for each slice."""
    folder.mkdir()
    paths = [folder / f"{number}" for number in range(slices)]
    for number, (path, pixels) in enumerate(zip(paths, _anatomy(slices), strict=True)):
        made = _slice(number, pixels)
        if syntax != ExplicitVRLittleEndian:
            made.compress(syntax, generate_instance_uid=False)
        made.save_as(path, enforce_file_format=True)
    return paths


def _renamed(series: Sequence[Path], folder: Path) -> list[Path]:
    """The same slices as a series of its own."""
    folder.mkdir()
    paths = [folder / path.name for path in series]
    for old, new in zip(series, paths, strict=True):
        made = pydicom.dcmread(old)
        uid = UID(f"{made.SOPInstanceUID}.{folder.name.removeprefix('series')}")
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid
        made.SeriesInstanceUID = UID(f"{made.SeriesInstanceUID}.{folder.name.removeprefix('series')}")
        made.save_as(new, enforce_file_format=True)
    return paths


def _anatomy(slices: int) -> Iterator[NDArray[np.uint16]]:
    """Stored values of an ellipse of soft tissue with organs in it, in air."""
    rng = generator(1, "anatomy")
    rows, columns = np.indices((_EDGE, _EDGE)) / _EDGE - 0.5
    body = (rows / 0.33) ** 2 + (columns / 0.42) ** 2 < 1
    for number in range(slices):
        organs = 60 * np.sin(9 * rows + number / 20) * np.cos(11 * columns)
        noise = rng.normal(0, 12, rows.shape)
        yield np.clip(np.where(body, 1064 + organs + noise, 24 + noise / 4), 0, 4095).astype(np.uint16)


def _slice(number: int, pixels: NDArray[np.uint16]) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"2.25.{number + 1}")
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = CTImageStorage, meta.MediaStorageSOPInstanceUID, "CT"
    made.StudyInstanceUID, made.SeriesInstanceUID = UID("2.25.1000001"), UID("2.25.1000002")
    made.PatientName, made.PatientID, made.Manufacturer = "Phantom^Benchmark", "0000", "SIEMENS"
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, 1.25 * number], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing, made.RescaleSlope, made.RescaleIntercept = [0.7, 0.7], 1, -1024
    made.SamplesPerPixel, made.PhotometricInterpretation, made.Rows, made.Columns = 1, "MONOCHROME2", *pixels.shape
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.PixelData = pixels.tobytes()
    return made
