"""Every fault that the doctor's tables name, planted just beyond its bound and just within it, in a stored data set.

The bounds stand here as numbers of their own: whoever moves one in the source must move it here too.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from doctored import EDGE, IMAGES, PATIENTS, Row, affine, body, clean, lesion, name_of, names, stored, volume

from client.data.case_files import Quarantined
from client.data.doctor import checks
from client.data.doctor.diagnose import diagnose
from client.data.doctor.findings import Diagnosis, Finding
from shared.messages import Split
from shared.preprocessing.image import FloatArray, MaskArray

ODD = 5
"""The number of the row that is changed."""
PIXELS = EDGE * EDGE
ROWS = clean()


@dataclass(frozen=True)
class Data:
    """A data set to look at."""

    rows: Sequence[Row]
    aside: Sequence[Quarantined] = ()
    split_of: Callable[[str], Split] | None = None


@dataclass(frozen=True)
class Fault:
    """A finding's code, a data set that has barely none, one that barely has it, and the rows that it is about."""

    code: str
    within: Data
    beyond: Data
    about: Iterable[int] = (ODD,)
    note: str = ""


def one(**changes: object) -> Data:
    """The clean data set, with row ``ODD`` changed."""
    return several({ODD: changes})


def several(changes: dict[int, dict[str, object]]) -> Data:
    return Data([row.but(**changes.get(row.number, {})) for row in ROWS])


def everywhere(change: Callable[[Row], dict[str, object]], rows: Sequence[Row] = ROWS) -> Data:
    return Data([row.but(**change(row)) for row in rows])


def split(data: Data, *testers: int) -> Data:
    """The same, divided: the patients with these numbers are tested on."""
    chosen = {name_of(f"patient {number}") for number in testers}
    return Data(data.rows, data.aside, lambda patient: "test" if patient in chosen else "train")


# --- images ----------------------------------------------------------------------------------------------------------


def with_pixels(value: float, count: int = 1, voxels: FloatArray = ROWS[ODD].voxels) -> FloatArray:
    """An image whose first ``count`` pixels, which show air, have this value."""
    changed = voxels.copy()
    changed.reshape(-1)[:count] = value
    return changed


def from_to(low: float, high: float) -> FloatArray:
    """A body with its values stretched onto a range, in whole numbers where that is wide."""
    voxels = ROWS[ODD].voxels
    stretched = low + (voxels - voxels.min()) / np.ptp(voxels) * (high - low)
    return (np.rint(stretched) if high - low > 100 else stretched).astype(np.float32)


def windowed(share: int) -> FloatArray:
    """Soft tissue whose air, far above -900 HU, is cut off in ``share`` pixels alone."""
    voxels = ROWS[ODD].voxels
    return with_pixels(-899, share, np.where(voxels < -500, voxels + 600, voxels).astype(np.float32))


def coloured(row: Row) -> FloatArray:
    return np.repeat(row.voxels, 3, axis=0)


def grainy(number: int, grain: float) -> FloatArray:
    """Another exposure of a row's image."""
    noise = np.random.default_rng(77).normal(0, grain, (1, EDGE, EDGE))
    return np.rint(ROWS[number].voxels + noise).astype(np.float32)


# --- geometry --------------------------------------------------------------------------------------------------------


VOLUMES = [volume(number) for number in range(4)]


def turned(degrees: float) -> Data:
    """One volume of four turned about the axis from feet to head."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    turn = [[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]
    return Data([*VOLUMES[:3], VOLUMES[3].but(affine_lps=affine(turn, (2.0, 0.8, 0.8)))])


def tilted(degrees: float) -> Data:
    """One volume of four whose slices are shifted as by a tilted gantry."""
    tilt = [[1, 0, 0], [0, 1, np.sin(np.radians(degrees))], [0, 0, np.cos(np.radians(degrees))]]
    return Data([*VOLUMES[:3], VOLUMES[3].but(affine_lps=affine(tilt, (2.0, 0.8, 0.8)))])


def photographs(without_scale: int) -> Data:
    """Ultrasound, of which some do not say how large a pixel is."""
    return everywhere(lambda row: {"modality": "us", "spacing_known": row.number >= without_scale})


# --- masks, tables, people -------------------------------------------------------------------------------------------


def drawn(*pixels: tuple[int, int], background: int = 0, value: int = 1) -> MaskArray:
    """A mask with these pixels in it."""
    mask = np.full((EDGE, EDGE), background, np.uint8)
    for row, column in pixels:
        mask[row, column] = value
    return mask


def speck(size: int) -> MaskArray:
    """A lesion with an island of ``size`` pixels far from it."""
    mask = lesion(ODD)
    mask[2, 2 : 2 + size] = 1
    return mask


def different(count: int) -> Callable[[Row], str]:
    """As many different values as ``count`` among the patients."""
    return lambda row: "abcdefghijkl"[min(row.number // IMAGES, count - 1)]


def of_one_patient(count: int, rows: Sequence[Row]) -> Data:
    """The first ``count`` rows are of the first patient."""
    first = rows[0].measured()[0]
    whose = {"patient": first.patient, "aliases": first.aliases}
    return Data([row.but(**whose) if row.number < count else row for row in rows])


def alone(count: int) -> Data:
    """As many patients with an image each."""
    return Data([row.but(number=row.number * IMAGES) for row in clean(12)[:count]])


def one_picture_of(count: int) -> Data:
    """As many patients who all have the same picture but for the noise."""
    rng = np.random.default_rng(3)
    return Data([Row(n * IMAGES, body(0) + rng.normal(0, 20, (1, EDGE, EDGE)).astype("f4")) for n in range(count)])


def aside(count: int, code: str) -> Data:
    """The clean data set, and cases that could not be used."""
    return Data(ROWS, [Quarantined(name_of(f"bad {number}"), code, "it is bad") for number in range(count)])


FAULTS = [
    Fault("spacing-outlier", one(spacing_mm=(0.8 * 1.99,) * 2), one(spacing_mm=(1.6, 1.6))),
    Fault("spacing-outlier", one(spacing_mm=(0.8, 0.8 / 1.99)), one(spacing_mm=(0.8, 0.4)), note="half"),
    Fault("spacing-implausible", one(spacing_mm=(20.0, 20.0)), one(spacing_mm=(20.0, 20.01)), note="long"),
    Fault("spacing-implausible", one(spacing_mm=(0.01, 0.01)), one(spacing_mm=(0.0099, 0.01)), note="short"),
    Fault("spacing-unknown", one(modality="us"), one(spacing_known=False), note="ct"),
    Fault("spacing-unknown", photographs(13), photographs(12), range(12), note="most know"),
    Fault("orientation-oblique", turned(19.9), turned(20.1), (3,)),
    Fault("orientation-sheared", tilted(0.99), tilted(1.01), (3,)),
    Fault(
        "dimensions-mixed", one(voxels=body(99)), one(voxels=body(99)[:, None], spacing_mm=(1.0, 0.8, 0.8), mask=None)
    ),
    Fault("channels-mixed", one(voxels=body(99)), one(voxels=coloured(ROWS[ODD]))),
    Fault("modalities-mixed", one(modality="ct"), one(modality="mr")),
    Fault("shapes-mixed", one(), one(voxels=body(99)[:, :, :-1], mask=None), ()),
    Fault(
        "subgroup-identifies",
        everywhere(lambda row: {"subgroups": (("ward", different(6)(row)),)}),
        everywhere(lambda row: {"subgroups": (("ward", different(7)(row)),)}),
        (),
    ),
    Fault("subgroup-looks-like-identifier", one(subgroups=(("w", "1234"),)), one(subgroups=(("w", "12345"),)), ()),
    Fault(
        "label-identifies",
        everywhere(lambda row: {"label": different(6)(row)}),
        everywhere(lambda row: {"label": different(7)(row)}),
        (),
    ),
    Fault("label-looks-like-identifier", one(label="Meier Anna"), one(label="Meier^Anna"), ()),
    Fault("burned-in-suspected", one(), one(suspicions=("text",))),
    Fault("identifying-content-dropped", one(), one(dropped=("PatientName",)), ()),
    Fault(
        "duplicate-within-patient",
        several({0: {"voxels": body(0)}, 1: {"voxels": with_pixels(-999, voxels=body(0))}}),
        several({1: {"voxels": body(0)}}),
        (max((0, 1), key=lambda number: ROWS[number].case_id),),
    ),
    Fault(
        "duplicate-across-patients",
        several({4: {"voxels": with_pixels(-999, voxels=body(8))}}),
        several({4: {"voxels": body(8)}}),
        (4, 8),
    ),
    Fault("duplicate-across-patients", one(), one(source_sha256=name_of("source 0")), (0, ODD), note="source"),
    Fault(
        "duplicate-across-splits",
        split(several({4: {"voxels": body(8)}}), 0, 1),
        split(several({4: {"voxels": body(8)}}), 2),
        (4, 8),
    ),
    Fault(
        "near-duplicate-across-patients",
        several({4: {"voxels": grainy(8, 60)}}),
        several({4: {"voxels": grainy(8, 30)}}),
        (4, 8),
    ),
    Fault(
        "near-duplicate-across-splits",
        split(several({4: {"voxels": grainy(8, 30)}}), 2, 4),
        split(several({4: {"voxels": grainy(8, 30)}}), 4),
        (4, 8),
    ),
    Fault("near-duplicates-unsure", one_picture_of(45), one_picture_of(46), ()),
    Fault(
        "duplicate-labels-differ",
        several({4: {"voxels": body(8)}}),
        several({4: {"voxels": body(8), "label": "malignant"}}),
        (4, 8),
    ),
    Fault("patient-two-names", one(), one(aliases=(name_of("alias 0"),)), (0, 1, 4, ODD)),
    Fault("quarantine-quota", aside(6, "unreadable-dicom"), aside(7, "unreadable-dicom"), ()),
    Fault(
        "image-constant",
        one(voxels=with_pixels(1, 1, np.zeros_like(ROWS[0].voxels))),
        one(voxels=np.zeros_like(ROWS[0].voxels)),
    ),
    Fault(
        "image-two-values",
        one(voxels=with_pixels(2, 1, with_pixels(1, 9, np.zeros_like(ROWS[0].voxels)))),
        one(voxels=with_pixels(1, 9, np.zeros_like(ROWS[0].voxels))),
    ),
    Fault("ct-eight-bit", one(voxels=from_to(0, 256)), one(voxels=from_to(0, 255)), note="high"),
    Fault("ct-eight-bit", one(voxels=from_to(-1, 254)), one(voxels=from_to(0, 254)), note="low"),
    Fault("ct-not-hounsfield", one(voxels=from_to(-20, 30)), one(voxels=from_to(-20, 29.9)), note="narrow"),
    Fault("ct-not-hounsfield", one(voxels=from_to(-1, 2000)), one(voxels=from_to(0, 2000)), note="low"),
    Fault("ct-range", one(voxels=with_pixels(32767)), one(voxels=with_pixels(32768)), note="high"),
    Fault("ct-range", one(voxels=with_pixels(-4096)), one(voxels=with_pixels(-4097)), note="low"),
    Fault("ct-clipped", one(voxels=windowed(PIXELS // 50)), one(voxels=windowed(PIXELS // 50 + 1)), note="share"),
    Fault("ct-clipped", one(voxels=body(ODD).clip(-900)), one(voxels=body(ODD).clip(-899)), note="low"),
    Fault(
        "image-saturated", one(voxels=with_pixels(500, PIXELS // 20)), one(voxels=with_pixels(500, PIXELS // 20 + 1))
    ),
    Fault("image-inverted", Data(one(voxels=-body(ODD)).rows[:7]), Data(one(voxels=-body(ODD)).rows[:8])),
    Fault(
        "nothing-to-learn",
        everywhere(lambda row: {"label": None, "mask": row.mask if row.number == ODD else None}),
        everywhere(lambda _: {"label": None, "mask": None}),
        (),
    ),
    Fault("label-missing", one(label="unsure"), one(label=None)),
    Fault(
        "label-one-class",
        everywhere(lambda row: {"label": "ill" if row.number == ODD else "well"}),
        everywhere(lambda _: {"label": "well"}),
        (),
    ),
    Fault("label-spelling", one(label="benigne"), one(label=" Be nigN")),
    Fault(
        "label-few-patients",
        everywhere(lambda row: {"label": "rare" if row.number < 5 * IMAGES else "usual"}),
        everywhere(lambda row: {"label": "rare" if row.number < 4 * IMAGES else "usual"}),
        (),
    ),
    Fault(
        "mask-missing",
        everywhere(lambda row: {"mask": None if row.number < 13 else row.mask}),
        everywhere(lambda row: {"mask": None if row.number < 12 else row.mask}),
        range(12),
    ),
    Fault("mask-empty", one(mask=drawn((9, 9))), one(mask=drawn())),
    Fault("mask-full", one(mask=drawn((9, 9), background=1, value=0)), one(mask=drawn(background=1))),
    Fault(
        "mask-classes",
        everywhere(lambda row: {"mask": lesion(row.number) * (2 if row.number < 3 else 1)}),
        everywhere(lambda row: {"mask": lesion(row.number) * (2 if row.number < 2 else 1)}),
        (0, 1),
    ),
    Fault("mask-tiny-islands", one(mask=speck(5)), one(mask=speck(4))),
    Fault("mask-at-border", one(mask=drawn((1, 46), (46, 1))), one(mask=drawn((9, 9), (9, 47)))),
    Fault("patients-few", Data(clean(10)), Data(clean(9)), ()),
    Fault("patient-dominates", of_one_patient(8, clean(16)), of_one_patient(8, clean(16)[:-1]), range(8), note="share"),
    Fault("patient-dominates", of_one_patient(7, clean(8)), of_one_patient(8, clean(8)), range(8), note="times"),
    Fault("patients-not-told", alone(19), alone(20), ()),
]

THEMES = {
    "quarantined-series": "slice-gap",
    "quarantined-mask": "mask-shape",
    "quarantined-burned-in": "burned-in-text",
    "quarantined-unreadable": "unreadable-dicom",
}
"""A reason for each finding about what is set aside."""
ELSEWHERE = {"not-measured"}
"""What takes a process that dies: see the tests of ``measuring`` and ``intake``."""


def diagnosed(folder: Path, data: Data) -> dict[str, Finding]:
    """The findings on a data set that was stored, by code."""
    return by_code(looked_at(folder, data))


def looked_at(folder: Path, data: Data) -> Diagnosis:
    with stored(folder, data.rows, data.aside) as archive:
        return diagnose(archive, "livers", data.split_of, workers=1, progress=lambda _done, _total: None)


def by_code(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {one.code: one for one in diagnosis.findings}


def documented() -> dict[str, str]:
    """Severity by code, as the tables at the top of the modules of ``checks`` say them."""
    said = "\n".join(path.read_text().split('"""')[1] for path in Path(checks.__path__[0]).glob("*.py"))
    return dict(re.findall(r"^([a-z]+(?:-[a-z]+)+) +(error|warning|note) ", said, re.MULTILINE))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.code} {fault.note}".strip())
def test_a_fault_is_found_just_beyond_its_bound_and_not_just_within(tmp_path: Path, fault: Fault) -> None:
    assert fault.code not in diagnosed(tmp_path / "within", fault.within)
    found = diagnosed(tmp_path / "beyond", fault.beyond)[fault.code]
    rows = {row.number: row for row in fault.beyond.rows}
    assert found.cases == names(rows[number] for number in fault.about)
    assert found.severity == documented()[fault.code]
    assert found.hint
    assert not any(case in found.sentence + found.hint for case in found.cases)


@pytest.mark.parametrize("code", THEMES)
def test_what_is_set_aside_is_found_under_its_theme_alone(tmp_path: Path, code: str) -> None:
    data = aside(1, THEMES[code])
    found = diagnosed(tmp_path, data)
    assert found.keys() == {code}
    assert found[code].cases == (data.aside[0].case_id,)
    assert found[code].severity == documented()[code]


@pytest.mark.parametrize("at", ["image", "mask"])
def test_one_bit_that_changed_on_disk_is_a_damaged_case(tmp_path: Path, at: str) -> None:
    data = one(voxels=with_pixels(0.5, PIXELS))
    with stored(tmp_path, data.rows) as archive:
        record = archive.record(ROWS[ODD].case_id)
        assert record is not None
    place = record.location.offset + (0 if at == "image" else 4 * PIXELS)
    path = max((tmp_path / "segments").iterdir())
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    found = diagnosed(tmp_path, Data(()))
    assert found["archive-damaged"].cases == (record.case_id,)
    assert found["archive-damaged"].severity == documented()["archive-damaged"] == "error"


def test_every_finding_of_the_tables_is_planted_somewhere() -> None:
    planted = {fault.code for fault in FAULTS} | set(THEMES) | {"archive-damaged"}
    assert len(documented()) > 50
    assert planted | ELSEWHERE == set(documented())
    assert not planted & ELSEWHERE


def test_the_clean_data_set_has_no_finding_at_all(tmp_path: Path) -> None:
    assert diagnosed(tmp_path / "slices", Data(ROWS)) == {}
    assert diagnosed(tmp_path / "divided", split(Data(ROWS), 0, 1, 2)) == {}
    assert diagnosed(tmp_path / "volumes", Data([volume(number) for number in range(2 * PATIENTS)])) == {}


def test_faults_in_different_rows_are_found_side_by_side(tmp_path: Path) -> None:
    """Each row a fault of its own; that none hides another is what a report with many findings needs."""
    faults = {
        2: ("ct-range", {"voxels": with_pixels(40000, voxels=body(2))}),
        7: ("ct-clipped", {"voxels": body(7).clip(-300)}),
        8: ("mask-full", {"mask": drawn(background=1)}),
        11: ("mask-tiny-islands", {"mask": speck(1)}),
        14: ("spacing-outlier", {"spacing_mm": (3.2, 3.2)}),
        17: ("label-missing", {"label": None}),
        20: ("burned-in-suspected", {"suspicions": ("declared",)}),
        23: ("image-constant", {"voxels": np.ones_like(ROWS[0].voxels)}),
    }
    found = diagnosed(tmp_path, several({number: dict(changes) for number, (_, changes) in faults.items()}))
    assert {code: found[code].cases for code, _ in faults.values()} == {
        code: (ROWS[number].case_id,) for number, (code, _) in faults.items()
    }
