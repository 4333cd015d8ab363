"""Which hospitals a synthetic federation has, and how they differ.

Promises
- A ``Hospital`` is a value: who comes there, what scanner stands there, how its files are written, what is wrong with
  some of them. Everything else follows from it and a seed.
- ``hospitals`` and ``tiny_hospitals`` give hospitals that differ in what real ones differ in: contrast phase, tube
  voltage, kernel, noise, pixel spacing, habitus, case mix, encoding of pixels and format of masks. The first four are
  always the same four characters; later ones are variations of them drawn from the seed.
- Vendors, hospitals and people are invented.

What is wrong on purpose (``Fault``): a file cut short in its pixel data, an empty file, a text file under an image's
name, a mask drawn at half its image's resolution. Each fault is one image more than the healthy ones.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from shared.errors import ScenarioError
from shared.seeds import generator
from simulations.phantoms.anatomy import Population
from simulations.phantoms.scanner import Encoding, Scanner

Fault = Literal["truncated", "empty", "text", "mask-shape"]
MaskFormat = Literal["seg", "nifti"]


@dataclass(frozen=True, slots=True)
class Hospital:
    """One site of a synthetic federation.

    Attributes:
        name: name of its folder.
        vendor: maker of its scanner, as written in the files.
        patients: how many people have images here.
        images: fewest and most images a person has.
        dimensions: 2 for series of one slice, 3 for volumes.
        population: who comes.
        scanner: how they are scanned.
        encoding: how pixels are stored.
        masks: format of the experts' masks.
        faults: what is wrong, one additional image each.
        masks_off_px: pixels that every mask lies too far down and right.
        guests: hospitals, each with how many of its first people are also here, with the same files.
    """

    name: str
    vendor: str
    patients: int = 30
    images: tuple[int, int] = (2, 4)
    dimensions: Literal[2, 3] = 2
    population: Population = field(default_factory=Population)
    scanner: Scanner = field(default_factory=Scanner)
    encoding: Encoding = field(default_factory=Encoding)
    masks: MaskFormat = "seg"
    faults: tuple[Fault, ...] = ()
    masks_off_px: int = 0
    guests: tuple[tuple[Hospital, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", self.name) or self.name == "truth":
            raise ScenarioError(
                f"{self.name!r} cannot name a hospital's folder", hint="use lower-case letters, digits and hyphens"
            )
        fewest, most = self.images
        if self.patients < 1 or not 1 <= fewest <= most:
            raise ScenarioError(
                f"hospital {self.name} has {self.patients} patients with {fewest} to {most} images each",
                hint="give at least 1 patient and a range of images such as (2, 4)",
            )
        if not 10 <= self.encoding.bits <= 16:
            raise ScenarioError(
                f"hospital {self.name} stores {self.encoding.bits} bits", hint="CT images need 10 to 16 bits"
            )


@dataclass(frozen=True, slots=True)
class PhantomFederation:
    """Synthetic hospitals with different names."""

    hospitals: tuple[Hospital, ...]

    def __post_init__(self) -> None:
        """Refuse two hospitals that would share a folder."""
        names = {hospital.name for hospital in self.hospitals}
        if len(names) != len(self.hospitals) or not names:
            raise ScenarioError(
                f"{len(self.hospitals)} hospitals have {len(names)} different names", hint="name each hospital once"
            )


FOUR_HOSPITALS = (
    Hospital(
        name="north",
        vendor="Aldermed",
        population=Population(malignant_share=0.5, fat_mm=14.0),
        scanner=Scanner(phase="portal", spacing_mm=3.0, blur_mm=0.8, noise_hu=9.0),
        encoding=Encoding(bits=12, syntax="explicit-le"),
        masks="seg",
        faults=("truncated",),
    ),
    Hospital(
        name="east",
        vendor="Novascan",
        population=Population(malignant_share=0.4, build=0.93, fat_mm=9.0),
        scanner=Scanner(phase="native", spacing_mm=2.8, noise_hu=12.0, grain_mm=2.4, gain=0.97),
        encoding=Encoding(bits=16, signed=True, syntax="rle"),
        masks="nifti",
        faults=("empty", "mask-shape"),
    ),
    Hospital(
        name="south",
        vendor="Kestrel Imaging",
        population=Population(malignant_share=0.6, build=1.08, fat_mm=26.0),
        scanner=Scanner(phase="arterial", spacing_mm=3.4, blur_mm=2.6, noise_hu=7.0, gain=1.06),
        encoding=Encoding(bits=12, photometric="MONOCHROME1", syntax="jpeg-ls"),
        masks="seg",
        faults=("text",),
    ),
    Hospital(
        name="west",
        vendor="Ostra",
        population=Population(malignant_share=0.5, build=1.02, fat_mm=18.0),
        scanner=Scanner(phase="late", spacing_mm=3.2, blur_mm=1.4, noise_hu=16.0, cupping_hu=16.0),
        encoding=Encoding(bits=16, slope=0.5, syntax="jpeg-2000"),
        masks="nifti",
        faults=("truncated", "mask-shape"),
    ),
)


def hospitals(count: int, seed: int, *, patients: int = 30, dimensions: Literal[2, 3] = 2) -> PhantomFederation:
    """``count`` hospitals of ``patients`` people each: the four characters, then variations of them."""
    if count < 1:
        raise ScenarioError(f"{count} hospitals were asked for", hint="ask for at least one")
    images = (2, 4) if dimensions == 2 else (1, 1)
    made = itertools.islice(_characters(seed), count)
    return PhantomFederation(
        tuple(replace(one, patients=patients, images=images, dimensions=dimensions) for one in made)
    )


def tiny_hospitals(count: int, seed: int, *, patients: int = 4) -> PhantomFederation:
    """Many small hospitals: ``patients`` people with 3 images of 64 by 64 pixels each, nothing broken."""
    whole = hospitals(count, seed, patients=patients)
    return PhantomFederation(
        tuple(
            replace(
                one, name=f"clinic-{place:03d}", images=(3, 3), masks="nifti", faults=(), scanner=_halved(one.scanner)
            )
            for place, one in enumerate(whole.hospitals, start=1)
        )
    )


def _halved(scanner: Scanner) -> Scanner:
    """The same field of view in half as many rows and columns."""
    rows, columns = scanner.shape
    return replace(scanner, shape=(rows // 2, columns // 2), spacing_mm=2 * scanner.spacing_mm)


def _characters(seed: int) -> itertools.chain[Hospital]:
    later = (
        _variation(FOUR_HOSPITALS[place % 4], place // 4 + 1, generator(seed, "phantom-hospital", place))
        for place in itertools.count(4)
    )
    return itertools.chain(FOUR_HOSPITALS, later)


def _variation(base: Hospital, number: int, random: np.random.Generator) -> Hospital:
    """Another hospital with the same vendor and phase as ``base``, but its own people, settings and habits."""
    scanner, population = base.scanner, base.population
    return replace(
        base,
        name=f"{base.name}-{number}",
        population=replace(
            population,
            malignant_share=float(random.uniform(0.3, 0.7)),
            build=population.build * float(random.uniform(0.95, 1.05)),
            fat_mm=population.fat_mm * float(random.uniform(0.7, 1.3)),
        ),
        scanner=replace(
            scanner,
            spacing_mm=round(scanner.spacing_mm * float(random.uniform(0.95, 1.08)), 2),
            blur_mm=scanner.blur_mm * float(random.uniform(0.5, 1.5)),
            noise_hu=scanner.noise_hu * float(random.uniform(0.7, 1.3)),
            gain=float(random.uniform(0.96, 1.06)),
        ),
        faults=(),
    )
