"""The people of a synthetic hospital and their images, before anything is written.

Promises
- ``members`` and ``scans`` are functions of a hospital and a seed. Each person, and each image's noise, has its own
  stream of random numbers: another hospital, person or image changes nobody else.
- Prevalence is exact: of n people, ``round(prevalence * n)`` have lesions, and the given share of those (rounded) is
  malignant. Who it is, is drawn.
- Every slice of a person with lesions that is a whole image (2-D) cuts the first lesion.

Writing is left to ``files`` and ``folders``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import numpy as np

from shared.seeds import generator
from simulations.phantoms.anatomy import Cut, Kind, Person, cut, person
from simulations.phantoms.hospitals import Fault, Hospital
from simulations.phantoms.scanner import Grid, Stored, acquire, grid, quantise

_FAMILY = ("Ahlgren", "Brandt", "Castellano", "Dvořák", "Eriksen", "Fournier", "Grünwald", "Holm", "Ivanova", "Jansen")
_GIVEN = {
    "F": ("Agnes", "Beatriz", "Clara", "Dagny", "Ewa", "Fleur", "Greta", "Hedvig"),
    "M": ("Anton", "Bruno", "Casper", "Dario", "Emil", "Felix", "Gustav", "Henrik"),
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a hospital knows about a person: invented, and just as confidential in form as the real thing."""

    patient_id: str
    family_name: str
    given_name: str
    sex: Literal["F", "M"]
    born: date
    examined: date

    @property
    def age(self) -> int:
        """Completed years on the day of the examination."""
        had_birthday = (self.examined.month, self.examined.day) >= (self.born.month, self.born.day)
        return self.examined.year - self.born.year - (not had_birthday)


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One person of a hospital: place in the cohort, identity, anatomy, and where on the couch (x, y in mm)."""

    place: int
    identity: Identity
    person: Person
    couch_mm: tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """One image: where its voxels are, what is true there, what the hospital stores, and what goes wrong with it."""

    place: int
    grid: Grid
    truth: Cut
    stored: Stored
    fault: Fault | None


def members(hospital: Hospital, seed: int) -> Iterator[Member]:
    """The hospital's people, in order."""
    for place, kind in enumerate(_kinds(hospital, seed)):
        random = generator(seed, "phantom", hospital.name, place, "person")
        identity = _identity(hospital, place, random)
        subject = person(hospital.population, hospital.scanner.phase, kind, random)
        shift = random.uniform(-8, 8, size=2)
        yield Member(place, identity, subject, (float(shift[0]), float(shift[1])))


def scans(hospital: Hospital, member: Member, seed: int) -> Iterator[Scan]:
    """The person's images: the healthy ones, then those that a fault befalls."""
    faults = hospital.faults[member.place :: hospital.patients]
    random = generator(seed, "phantom", hospital.name, member.place, "images")
    healthy = int(random.integers(hospital.images[0], hospital.images[1] + 1))
    fates: list[Fault | None] = [*[None] * healthy, *faults]
    for place, (fate, z) in enumerate(zip(fates, _heights(hospital, member.person, len(fates), random), strict=True)):
        lattice = grid(
            hospital.scanner, (*member.couch_mm, z), hospital.scanner.slices if hospital.dimensions == 3 else 1
        )
        truth = cut(member.person, lattice.points(), hospital.scanner.spacing_mm)
        noise = generator(seed, "phantom", hospital.name, member.place, "noise", place)
        stored = quantise(acquire(truth.hu, hospital.scanner, noise), hospital.encoding)
        yield Scan(place, lattice, truth, stored, fate)


def _kinds(hospital: Hospital, seed: int) -> list[Kind | None]:
    with_lesions = round(hospital.population.lesion_prevalence * hospital.patients)
    malignant = round(hospital.population.malignant_share * with_lesions)
    kinds: list[Kind | None] = ["malignant"] * malignant
    kinds += ["benign"] * (with_lesions - malignant)
    kinds += [None] * (hospital.patients - with_lesions)
    order = generator(seed, "phantom", hospital.name, "kinds").permutation(len(kinds))
    return [kinds[place] for place in order]


def _heights(hospital: Hospital, subject: Person, count: int, random: np.random.Generator) -> list[float]:
    """Level (z) of the middle of each image: neighbouring slices through the first lesion, or the same volume again."""
    if hospital.dimensions == 3:
        return [float(random.uniform(-4, 4)) for _ in range(count)]
    middle, reach = (
        (subject.lesions[0].centre_mm[2], 1.1 * subject.lesions[0].radius_mm) if subject.lesions else (0.0, 30.0)
    )
    step = min(hospital.scanner.slice_mm, reach / count)
    return [middle + step * (place - (count - 1) / 2) for place in range(count)]


def _identity(hospital: Hospital, place: int, random: np.random.Generator) -> Identity:
    sex: Literal["F", "M"] = "F" if random.random() < 0.5 else "M"
    examined = date(2019, 1, 7) + timedelta(days=int(random.integers(0, 1500)))
    return Identity(
        patient_id=f"{hospital.name[:2].upper()}{random.integers(100, 999)}-{place + 1:05d}",
        family_name=str(random.choice(_FAMILY)),
        given_name=str(random.choice(_GIVEN[sex])),
        sex=sex,
        born=examined - timedelta(days=int(random.integers(32 * 365, 84 * 365))),
        examined=examined,
    )
