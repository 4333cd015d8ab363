"""Synthetic hospitals, whose truth is known, found and read as a site does it."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from made_hospital import verdicts

from client.data.case_files import Salt
from client.data.ingest.read_case import read_case
from client.data.ingest.reading import Reading, Rules
from client.data.source.discover import discover
from client.data.source.found import Found, Table, Wanted
from shared.errors import CaseError
from simulations.phantoms import write_hospitals
from simulations.phantoms.hospitals import hospitals

SEED = 5


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """north (masks as DICOM SEG, one truncated image) and east (NIfTI masks, an empty file and a mask cut short)."""
    out = tmp_path_factory.mktemp("hospitals")
    write_hospitals(out, hospitals(2, SEED, patients=3), SEED)
    return out


def truth(out: Path, site: str) -> list[dict[str, str]]:
    with (out / "truth" / f"{site}.csv").open() as file:
        return list(csv.DictReader(file))


def salt(site: str) -> Salt:
    return Salt(site, b"phantom-tests-0123456789")


def found(out: Path, site: str) -> Found:
    table = Table(out / site / "labels.csv")
    return discover(Wanted((out / site,), (table,), dimensions=2, subgroup_columns=("sex", "age")), salt(site))


def read(out: Path, site: str) -> tuple[dict[str, Reading], list[str]]:
    """Cases that can be read, by name, and the reasons why others cannot."""
    readings, reasons = {}, [one.code for one in found(out, site).unusable]
    for files in found(out, site).cases:
        try:
            readings[files.case_id] = read_case(files, Rules(), salt(site))
        except CaseError as error:
            reasons.append(error.code)
    return readings, sorted(reasons)


@pytest.mark.parametrize("site", ["north", "east"])
def test_masks_have_exactly_the_organ_and_lesion_voxels_of_the_truth(written: Path, site: str) -> None:
    masks = [one.mask for one in read(written, site)[0].values() if one.mask is not None]
    counts = sorted((int((mask == 1).sum()), int((mask == 2).sum())) for mask in masks)
    healthy = [row for row in truth(written, site) if not row["fault"]]
    assert counts == sorted((int(row["organ_voxels"]), int(row["lesion_voxels"])) for row in healthy)


@pytest.mark.parametrize(
    ("site", "codes"), [("north", ["undecodable-pixels"]), ("east", ["mask-shape", "unreadable-dicom"])]
)
def test_every_fault_has_its_reason_and_nothing_else_has_one(written: Path, site: str, codes: list[str]) -> None:
    readings, reasons = read(written, site)
    assert reasons == codes
    assert len(readings) == sum(not row["fault"] for row in truth(written, site))


@pytest.mark.parametrize(("site", "lost"), [("north", 0), ("east", 1)])
def test_every_file_is_an_image_its_mask_the_table_or_the_empty_one(written: Path, site: str, lost: int) -> None:
    uses = Counter(verdicts(found(written, site)))
    images = len(truth(written, site)) - lost
    assert uses[("image", "")] == images
    assert uses[("table", "")] == 1
    assert uses[("quarantined", "unreadable-dicom")] == lost
    # The mask of the empty file is one that a table names, of an image that nobody can read.
    assert uses[("mask", "")] == images
    assert uses[("not-listed", "")] == lost


def test_labels_patients_and_subgroups_are_those_of_the_truth(written: Path) -> None:
    cases = found(written, "east").cases
    rows = [row for row in truth(written, "east") if row["fault"] != "empty"]
    assert Counter(one.label for one in cases) == Counter(row["label"] for row in rows)
    images = Counter(one.patient for one in cases)
    assert images == Counter(salt("east").person(row["patient_id"]) for row in rows)
    with (written / "east" / "labels.csv").open() as file:
        sexes = {row["series_uid"]: row["sex"] for row in csv.DictReader(file)}
    expected = Counter((salt("east").uid(row["series_uid"]), sexes[row["series_uid"]]) for row in rows)
    assert Counter((one.series, dict(one.subgroups)["sex"]) for one in cases) == expected


def test_nothing_that_identifies_a_patient_is_in_what_was_found_or_kept(written: Path) -> None:
    kept = [(one.acquisition, one.dropped, one.source_sha256) for one in read(written, "north")[0].values()]
    said = repr(found(written, "north")) + repr(kept)
    for row in truth(written, "north"):
        assert row["patient_id"] not in said
        assert row["series_uid"] not in said
