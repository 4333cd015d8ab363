"""Patients who are at two sites: their images are one picture.

Promises
- Two images are one picture where their stored voxels are equal, or where ``client.data.doctor.similar`` says so of two
  images of one data set: recompression, scaling and changes of brightness do not hide a copy.
- How alike strangers can be is learnt from different patients of one site: a copy at another site must be closer than
  these by far. Small pictures that all look the same therefore raise no alarm, unless their voxels are equal.
- Pictures of fewer than ``FINE`` pixels along an axis hold nothing finer than a thumbnail: only equal ones are copies.
- What a site shows to others here are thumbnails, which are pictures of patients. That is for simulations alone, where
  all images lie on one machine.

In a federation nothing of the kind may leave: a digest of an image answers whoever has the image, under any salt that
two sites share. It would take a private set intersection between sites; there is none here.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.data.archive.archive import Archive
from client.data.archive.record import Record
from client.data.dataset import Dataset
from client.data.doctor.measuring import measured
from client.data.doctor.similar import detail_shape, details, look_alikes, one_picture
from server.results import suppress
from shared.evaluation.label_quality import Finding
from simulations.workers import SiteSpec

CODE = "patients-at-two-sites"
FINE = 32

_CLOSER = 0.3
"""A copy is closer than this times the closest pair of different patients of one site (median over sites)."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Two sites, in the order of their names, and how many patients of the first are also at the second."""

    site: str
    other: str
    patients: int

    def finding(self) -> Finding:
        """For a report."""
        said = f"{suppress(self.patients)} patients of {self.site} have the same images at {self.other}"
        told = None if isinstance(suppress(self.patients), str) else float(self.patients)
        return Finding(CODE, self.site, told, None, said)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A site's image as it is compared."""

    site: int
    record: Record
    digest: str
    thumbnail: NDArray[np.uint8]


def shared_patients(specs: tuple[SiteSpec, ...]) -> tuple[Shared, ...]:
    """Pairs of sites with patients in common."""
    with ExitStack() as stack:
        archives = [stack.enter_context(Archive.open(Dataset(spec.data).archive)) for spec in specs]
        seen = [one for site, archive in enumerate(archives) for one in _seen_at(site, archive)]
        pairs = _equal(seen)
        fine = [one for one in seen if min(one.record.shape[-2:]) >= FINE]
        for axes in sorted({len(one.record.shape) for one in fine}):
            pairs |= _alike([one for one in fine if len(one.record.shape) == axes], archives)
    patients: dict[tuple[str, str], set[str]] = {}
    for one, other in pairs:
        (first, patient), (second, _) = sorted((specs[of.site].name, of.record.patient) for of in (one, other))
        patients.setdefault((first, second), set()).add(patient)
    return tuple(Shared(*names, len(found)) for names, found in sorted(patients.items()))


_Pairs = set[tuple[_Seen, _Seen]]


def _seen_at(site: int, archive: Archive) -> list[_Seen]:
    return [
        _Seen(site, record, found.digest, np.frombuffer(bytes.fromhex(found.thumbnail), np.uint8))
        for record, found in measured(archive)
        if found.high > found.low
    ]


def _equal(seen: list[_Seen]) -> _Pairs:
    same: dict[str, list[_Seen]] = {}
    for one in seen:
        same.setdefault(one.digest, []).append(one)
    return {(one, other) for group in same.values() for one in group for other in group if one.site < other.site}


def _alike(seen: list[_Seen], archives: list[Archive]) -> _Pairs:
    """Copies that are not equal: those that are would be each other's rivals."""
    _, first = np.unique([one.digest for one in seen], return_index=True)
    different = [seen[place] for place in sorted(first.tolist())]
    thumbnails = np.stack([one.thumbnail for one in different])
    # Patients of one site too: how alike strangers are is what a copy must stand out from.
    _, people = np.unique([f"{one.site}/{one.record.patient}" for one in different], return_inverse=True)
    found = look_alikes(thumbnails, people.astype(np.int32))
    pairs = [(different[one], different[other]) for one, other in found.pairs.tolist()]
    likeness = np.array([_likeness(one, other, archives) for one, other in pairs])
    apart = found.apart.clip(0) * (1 - likeness).clip(0)
    closest = dict.fromkeys({one.site for one in seen}, np.inf)
    for (one, other), distance in zip(pairs, apart.tolist(), strict=True):
        if one.site == other.site:
            closest[one.site] = min(closest[one.site], distance)
    copies = one_picture(found, likeness) & (apart <= _CLOSER * np.median(list(closest.values())))
    return {pair for pair, copy in zip(pairs, copies.tolist(), strict=True) if copy and pair[0].site != pair[1].site}


def _likeness(one: _Seen, other: _Seen, archives: list[Archive]) -> float:
    shape = detail_shape(one.record.shape, other.record.shape)
    first, second = (details(archives[of.site].image(of.record), shape) for of in (one, other))
    return float((first * second).sum())
