"""Ingest: from the files of a case to a canonical, de-identified image, against pydicom reading and decoding them.

``ingest`` makes the rows of the table; ``reading`` is an arm of a process of its own. The files are a CT series of 512²
slices of 12 bits, written on the spot: smooth organs and noise of a scanner, which compress like a patient. Ours hashes
every byte, checks geometry, header and pixels, and stacks Hounsfield units; pydicom hands out stored values. Both sides
read files that are in the page cache, on one core.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from bench import Bench
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless
from rows import Row, Target, ratios

from client.data.case_files import CaseFiles, Salt
from client.data.ingest.read_case import case_reader
from client.data.ingest.reading import Rules
from shared.seeds import generator

Turns = dict[str, list[float]]

ENCODINGS = {
    "raw": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
}
_EDGE = 512


def ingest(bench: Bench) -> Iterator[Row]:
    """Slices a second of one core, for each way of compressing them and for all of them together."""
    repeats = bench.scale.repeats
    read = bench.tuned("ingest.reading", beside=bench.stores, slices=12 * repeats, repeats=repeats)().said
    against = "pydicom reading and decoding the same files"
    for name in ENCODINGS:
        yield Row(f"ingest: reading a CT series, {name}", against, "x", _speed(read, [name]))
    together = _speed(read, list(ENCODINGS))
    yield Row("ingest: reading as many slices of each", against, "x", together, target=Target("at least", 0.9))


def reading(beside: str, slices: int, repeats: int) -> Turns:
    """Seconds of CPU time to read each series once, by each side."""
    turns: Turns = {}
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        for name, syntax in ENCODINGS.items():
            paths = _series(Path(folder) / name, syntax, slices)
            for side, seconds in _in_turns({"ours": _ours(paths), "pydicom": _pydicom(paths)}, repeats).items():
                turns[f"{name} {side}"] = seconds
    return turns


def _speed(read: Mapping[str, Sequence[float]], names: Sequence[str]) -> tuple[float, ...]:
    """Our throughput in multiples of pydicom's, turn by turn."""
    return ratios(_together(read, names, "pydicom"), _together(read, names, "ours"))


def _together(read: Mapping[str, Sequence[float]], names: Sequence[str], side: str) -> list[float]:
    return [sum(turn) for turn in zip(*(read[f"{name} {side}"] for name in names), strict=True)]


def _ours(paths: Sequence[Path]) -> Callable[[], object]:
    files = CaseFiles("case", "patient", tuple(paths))
    return lambda: case_reader(Rules(), Salt("benchmark", bytes(32)))(files)


def _pydicom(paths: Sequence[Path]) -> Callable[[], object]:
    def read() -> None:
        for path in paths:
            _ = pydicom.dcmread(path).pixel_array

    return read


def _in_turns(ways: dict[str, Callable[[], object]], repeats: int) -> Turns:
    """Once each to warm up, then A B A B ..."""
    for work in ways.values():
        work()
    turns: Turns = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            began = time.process_time()
            work()
            turns[name].append(time.process_time() - began)
    return turns


def _series(folder: Path, syntax: UID, slices: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}" for number in range(slices)]
    for number, (path, pixels) in enumerate(zip(paths, _anatomy(slices), strict=True)):
        made = _slice(number, pixels)
        if syntax != ExplicitVRLittleEndian:
            made.compress(syntax, generate_instance_uid=False)
        made.save_as(path, enforce_file_format=True)
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
