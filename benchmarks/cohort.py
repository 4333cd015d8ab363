"""A hundred thousand small cases: how long it takes to diagnose, freeze and check them, and what that needs in memory.

``cohort`` makes the rows of the table; the other functions are arms of processes of their own. Cases are images of 8²
that look like each other as much as radiographs of one kind do, three to a patient. Making them is not counted.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from archive import stored
from bench import QUICK, Bench, said
from processes import Ran
from rows import Row, Target

from client.data.archive.archive import Archive
from client.data.archive.catalogue import Change
from client.data.archive.record import Record
from client.data.cohort.drift import require_unchanged
from client.data.cohort.freeze import freeze
from client.data.cohort.manifest import SplitRule
from client.data.doctor.diagnose import diagnose
from client.data.progress import silent
from shared.preprocessing.image import FloatArray, Image
from shared.seeds import generator

_EDGE, _OF_A_PATIENT, _BATCH = 8, 3, 5_000
_MINUTES_S = 300.0
_SITE, _DATASET, _RULE = "benchmark", "small", SplitRule(1, 0.7, 0.1)


def cohort(bench: Bench) -> Iterator[Row]:
    """Times at full size, and memory against a tenth of it."""
    many = 1_000 if bench.scale == QUICK else 100_000
    few = many // 10
    with tempfile.TemporaryDirectory(dir=bench.stores) as folder:
        fewer, full = (_runs(bench, f"{folder}/{cases}", cases) for cases in (few, many))
    for what, ran in full.items():
        times = said([ran], "wall_s"), said([ran], "cpu_s")
        yield Row(f"{many} small cases: {what}", "", "s", *times, Target("at most", _MINUTES_S))
    for what in ("diagnose", "freeze, check for drift"):
        yield Row(f"{many} small cases: {what}, peak memory", "", "MiB", (full[what].peak_mib,))
        grown = (full[what].peak_mib - fewer[what].peak_mib) * 1.024**2 * 1000 / (many - few)
        yield Row(f"{many} small cases: {what}, memory of a case more", "", "kB", (grown,))


def _runs(bench: Bench, folder: str, cases: int) -> dict[str, Ran]:
    bench.tuned("cohort.fill", folder=folder, cases=cases)()
    return {
        "diagnose": bench.tuned("cohort.look", folder=folder)(),
        "diagnose again": bench.tuned("cohort.look", folder=folder)(),
        "freeze, check for drift": bench.tuned("cohort.hold", folder=folder)(),
    }


def fill(folder: str, cases: int) -> dict[str, int]:
    """Make an archive."""
    rng = generator(1, "small cases")
    with Archive.open_or_create(Path(folder)) as opened:
        for start in range(0, cases, _BATCH):
            numbers = range(start, min(start + _BATCH, cases))
            with opened.new_segment() as writer:
                images = zip(numbers, _pictures(rng, len(numbers)), strict=True)
                records = [_of_somebody(stored(number, writer, _image(picture))) for number, picture in images]
            opened.commit(Change(records))
        return {"cases": len(opened)}


def look(folder: str) -> dict[str, float]:
    """Diagnose it; what was measured before is not measured again."""
    began = time.perf_counter(), time.process_time()
    with Archive.open(Path(folder)) as opened:
        diagnosis = diagnose(opened, _DATASET, None, workers=1, progress=silent)
        return {"cases": diagnosis.cases, **_since(began)}


def hold(folder: str) -> dict[str, float]:
    """Freeze it, name the cohort by its digest, and see that nothing has changed."""
    began = time.perf_counter(), time.process_time()
    with Archive.open(Path(folder)) as opened:
        frozen = freeze(opened, _SITE, _DATASET, _RULE)
        frozen.digest()
        require_unchanged(frozen, opened)
        return {"cases": len(frozen.members), **_since(began)}


def _since(began: Sequence[float]) -> dict[str, float]:
    return {"wall_s": time.perf_counter() - began[0], "cpu_s": time.process_time() - began[1]}


def _pictures(rng: np.random.Generator, count: int) -> FloatArray:
    """One body, and what makes people differ: strong in coarse structures, weak in fine ones, as in nature."""
    rows, columns = np.indices((_EDGE, _EDGE)) / (_EDGE - 1) - 0.5
    frequencies = np.abs(np.fft.fftfreq(_EDGE, 1 / _EDGE))
    weights = 1 / (1 + np.hypot(frequencies[:, None], frequencies)) ** 2
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(count, _EDGE, _EDGE))) * weights).real
    body = np.exp(-8 * (rows**2 + columns**2))
    return np.asarray(np.rint(1000 + 2000 * body + 300 * noise / noise.std()), np.float32)


def _image(picture: FloatArray) -> Image:
    return Image(picture[None], (0.2, 0.2), "xray")


def _of_somebody(record: Record) -> Record:
    """With the text that a record from a hospital has."""
    number = int(record.case_id, 16)
    person = f"{number // _OF_A_PATIENT:024x}"
    return replace(
        record,
        patient=person,
        aliases=(f"a{person[1:]}", f"b{person[1:]}"),
        study=f"2.25.{10**38 + number // _OF_A_PATIENT}",
        series=f"2.25.{2 * 10**38 + number}",
        label=("normal", "nodule")[number % 2],
        subgroups=(("sex", "FM"[number // _OF_A_PATIENT % 2]),),
        acquisition=(("bits_stored", "12"), ("vendor", "siemens")),
        dropped=("birth-date", "patient-id", "patient-name"),
        source_sha256=f"{number:064x}",
        origin=f"{number:089x}",
    )
