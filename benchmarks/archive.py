"""The archive: random patches against numpy copying the same ones from memory, and what sealing costs.

``archive`` makes the rows of the table; the other functions are arms of processes of their own. Volumes look like CT:
slices of 512² whole numbers, which an archive keeps as int16, or fractions, which it keeps as float32. Memory holds
them as float32, as training does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from bench import Bench, milliseconds, percent
from rows import Row, Target, ratios

from client.data.archive.archive import Archive
from client.data.archive.catalogue import Change
from client.data.archive.keeping import write_case
from client.data.archive.record import Record
from client.data.archive.segments import SegmentWriter
from shared.preprocessing.image import FloatArray, Image
from shared.seeds import generator

Turns = dict[str, list[float]]
Crop = Callable[[int, Sequence[int]], FloatArray]

_VOLUMES, _SHAPE, _PATCH = 4, (96, 512, 512), (64, 64, 64)
_KEYS: dict[str, bytes | None] = {"plain": None, "sealed": bytes(range(32))}
_BATCH = 500


def archive(bench: Bench) -> Iterator[Row]:
    """Patches, whole volumes and rows; plain, sealed, and in memory."""
    repeats = bench.scale.repeats
    for kept in ("float32", "int16"):
        work = {"kept": kept, "patches": 50 * repeats, "repeats": repeats}
        read = bench.tuned("archive.patches", beside=bench.stores, **work)().said
        what, against = f"random patches of 64³ from an archive, kept as {kept}", "copying them from memory"
        yield Row(what, against, "%", percent(read["memory"], read["plain"]), target=Target("at least", 50.0))
        yield Row(f"{what}, sealed", against, "%", percent(read["memory"], read["sealed"]))
    whole = bench.tuned("archive.volumes", beside=bench.stores, repeats=repeats)().said
    for name in ("write", "read"):
        yield Row(f"archive: {name} CT volumes, sealed", "plain", "x", ratios(whole[f"sealed {name}"], whole[name]))
    cases = 4 * _BATCH * repeats
    rows = bench.tuned("archive.rows", beside=bench.stores, cases=cases)().said
    for name in ("commit", "list"):
        yield Row(f"archive: {name} one of {cases} small cases", "", "ms", milliseconds(rows[name]))


def patches(beside: str, kept: str, patches: int, repeats: int) -> Turns:
    """Seconds for random patches from volumes of which every page is in memory."""
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        memory = [image.voxels for image in _volumes(kept)]
        ways: dict[str, Crop] = {"memory": partial(_copied, memory)}
        for name, key in _KEYS.items():
            ways[name] = partial(_cropped, *_filled(Path(folder) / name, key, _volumes(kept)))
        return _in_turns({name: partial(_walk, crop, patches) for name, crop in ways.items()}, repeats)


def volumes(beside: str, repeats: int) -> Turns:
    """Seconds to write a CT volume durably, and to read it whole, hashing it for the first time."""
    turns: Turns = {}
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        images = list(_volumes("int16"))
        for turn in range(repeats):
            for name, key in _KEYS.items():
                prefix, place = ("sealed " if key else ""), Path(folder) / f"{name}-{turn}"
                began = time.perf_counter()
                opened, records = _filled(place, key, images)
                written = time.perf_counter()
                for record in records:
                    opened.image(record)
                turns.setdefault(f"{prefix}write", []).append((written - began) / len(images))
                turns.setdefault(f"{prefix}read", []).append((time.perf_counter() - written) / len(images))
    return turns


def rows(beside: str, cases: int) -> Turns:
    """Seconds a case to commit rows in batches, and to list them all."""
    with tempfile.TemporaryDirectory(dir=beside) as folder:
        small = Image(np.ones((1, 32, 32), np.float32), (1.0, 1.0))
        opened, (record,) = _filled(Path(folder), None, [small])
        commits = []
        for start in range(0, cases, _BATCH):
            batch = [replace(record, case_id=f"{start + number:024x}") for number in range(_BATCH)]
            began = time.perf_counter()
            opened.commit(Change(batch))
            commits.append((time.perf_counter() - began) / _BATCH)
        began = time.perf_counter()
        listed = sum(1 for _ in opened.records())
        return {"commit": commits, "list": [(time.perf_counter() - began) / listed]}


def _copied(volumes: Sequence[FloatArray], number: int, start: Sequence[int]) -> FloatArray:
    window = tuple(slice(first, first + extent) for first, extent in zip(start, _PATCH, strict=True))
    return volumes[number][(slice(None), *window)].copy()


def _cropped(opened: Archive, records: Sequence[Record], number: int, start: Sequence[int]) -> FloatArray:
    return opened.crop(records[number], start, _PATCH)


def _walk(crop: Crop, patches: int) -> None:
    rng = generator(1, "patches")
    room = [whole - extent + 1 for whole, extent in zip(_SHAPE, _PATCH, strict=True)]
    for _ in range(patches):
        crop(int(rng.integers(_VOLUMES)), [int(rng.integers(free)) for free in room])


def _volumes(kept: str) -> Iterator[Image]:
    rng = generator(1, "volumes")
    for _ in range(_VOLUMES):
        voxels = rng.integers(-1000, 2000, (1, *_SHAPE)).astype(np.float32)
        yield Image(voxels + 0.5 if kept == "float32" else voxels, (1.0,) * 3, "ct")


def _filled(folder: Path, key: bytes | None, images: Iterable[Image]) -> tuple[Archive, list[Record]]:
    """An archive of ``images``, open until the process ends."""
    opened = Archive.open_or_create(folder, key)
    with opened.new_segment() as writer:
        records = [stored(number, writer, image) for number, image in enumerate(images)]
    opened.commit(Change(records))
    return opened, records


def stored(number: int, writer: SegmentWriter, image: Image) -> Record:
    """A case without mask, label or history, written and described."""
    written = write_case(writer, image, None)
    return Record(
        case_id=f"{number:024x}",
        patient=f"{number:024x}",
        aliases=(),
        study="",
        series="",
        modality=image.modality,
        shape=image.voxels.shape,
        kept=written.kept,
        spacing_mm=image.spacing_mm,
        spacing_known=True,
        affine_lps=(),
        masked=False,
        label=None,
        subgroups=(),
        acquisition=(),
        dropped=(),
        suspicions=(),
        source_sha256="",
        sha256=written.sha256,
        origin="",
        location=written.location,
    )


def _in_turns(ways: dict[str, Callable[[], None]], repeats: int) -> Turns:
    """Once each to warm up, then A B A B ..."""
    for work in ways.values():
        work()
    turns: Turns = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            turns[name].append(time.perf_counter() - began)
    return turns
