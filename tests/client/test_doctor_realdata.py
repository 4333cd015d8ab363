"""The doctor on real images: what is known about these sets is found, and what is not there is not."""

import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from doctored import Row, stored

from client.data.archive.archive import Archive
from client.data.doctor.diagnose import diagnose
from client.data.doctor.findings import Finding
from shared.messages import Split
from shared.preprocessing.image import Image, Modality
from shared.preprocessing.nifti import image_from_nifti, mask_from_nifti
from shared.preprocessing.raster import image_from_raster, mask_from_raster

DATA = Path(os.environ.get("CONSILIUM_DATA") or Path(__file__).parents[3] / "shared" / "data")
BREAST, RETINA, SARCOMA = "breast_us_multisite", "retina_vessels_4cam", "sts_mri3d_multivendor"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not beside the project (CONSILIUM_DATA)"),
]

Named = dict[str, tuple[Finding, list[str]]]


def rows(folder: str, modality: Modality, site: str) -> Iterator[tuple[str, Row]]:
    """Each image of one site with the stem of its file, without its label where it has none."""
    with (DATA / folder / "manifest.csv").open(encoding="utf-8-sig", newline="") as file:
        listed = [row for row in csv.DictReader(file) if row["site"] == site]
    for number, row in enumerate(listed):
        path, mask = DATA / folder / row["image"], DATA / folder / row["mask"]
        image, drawn = read(path, mask, modality) if row["mask"] else (read_image(path, modality), None)
        person = row.get("patient") or row.get("group", "") + row.get("subject", "") or row["image"]
        said = {
            "patient": hashlib.sha256(person.encode()).hexdigest()[:24],
            "aliases": (),
            "label": row.get("label"),
            "subgroups": (),
            "affine_lps": () if image.affine_lps is None else tuple(image.affine_lps.ravel().tolist()),
        }
        yield path.stem, Row(number, image.voxels, drawn, modality, image.spacing_mm, image.spacing_known, said)


def read_image(path: Path, modality: Modality) -> Image:
    return image_from_nifti(path, modality) if modality == "mr" else image_from_raster(path, modality)


def read(path: Path, mask: Path, modality: Modality) -> tuple[Image, "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"]:
    image = read_image(path, modality)
    return image, (mask_from_nifti if modality == "mr" else mask_from_raster)(mask, image)


def looked_at(tmp_path: Path, named: list[tuple[str, Row]]) -> Named:
    stems = {row.case_id: stem for stem, row in named}

    def split(patient: str) -> Split:
        return "train" if patient < "a" else "test"

    with stored(tmp_path, (row for _, row in named)) as archive:
        found = diagnose(archive, "real", split, workers=1, progress=lambda _done, _total: None)
    return {one.code: (one, [stems[case] for case in one.cases]) for one in found.findings}


def test_the_near_duplicates_of_the_ultrasound_set_are_found(tmp_path: Path) -> None:
    """Its README names them. All pairs that were found were looked at once: each is one picture. These are some."""
    found = looked_at(tmp_path, list(rows(BREAST, "us", "busi_baheya")))
    named = set(found["near-duplicate-across-patients"][1])
    assert {"benign_152", "benign_018", "normal_051", "normal_052", "normal_054", "benign_255", "benign_277"} <= named
    assert 35 <= len(named) <= 50
    contradicting = {"benign_042", "malignant_051", "benign_399", "malignant_093", "benign_269", "normal_001"}
    assert set(found["duplicate-labels-differ"][1]) == contradicting
    assert "near-duplicate-across-splits" in found
    assert found["mask-empty"][1] == [stem for stem in found["mask-empty"][1] if stem.startswith("normal")]
    assert len(found["mask-empty"][1]) == 65
    assert not {code for code in found if code.startswith("image-")}


@pytest.mark.parametrize(
    ("folder", "modality", "site"),
    [
        (BREAST, "us", "busbra_toshiba_aplio300"),
        (RETINA, "fundus", "drive"),
        (RETINA, "fundus", "stare"),
        (SARCOMA, "mr", "ge"),
    ],
)
def test_nothing_is_an_error_in_sets_that_people_have_looked_through(
    tmp_path: Path, folder: str, modality: Modality, site: str
) -> None:
    found = looked_at(tmp_path, list(rows(folder, modality, site)))
    assert {code for code, (one, _) in found.items() if one.severity == "error"} == set()
    assert not {code for code in found if "duplicate" in code or code == "image-inverted"}


@pytest.mark.parametrize(
    ("folder", "modality", "site"), [(BREAST, "us", "busbra_toshiba_aplio300"), (RETINA, "fundus", "drive")]
)
def test_planted_negatives_and_copies_are_found_among_real_images(
    tmp_path: Path, folder: str, modality: Modality, site: str
) -> None:
    """A copy at half the size and other brightness under a new patient, and every tenth image inverted."""
    named = list(rows(folder, modality, site))
    inverted = set(range(4, len(named), 10))
    named = [
        (stem, row.but(voxels=row.voxels.max() - row.voxels) if place in inverted else row)
        for place, (stem, row) in enumerate(named)
    ]
    stem, original = named[0]
    high, wide = (edge // 2 for edge in original.voxels.shape[1:])
    small = original.voxels[:, : 2 * high, : 2 * wide].reshape(-1, high, 2, wide, 2).mean(axis=(2, 4))
    copy = Row(len(named), np.ascontiguousarray(0.8 * small + 9, np.float32), None, modality, (1.0, 1.0), False)
    found = looked_at(tmp_path, [*named, ("copy", copy)])
    assert set(found["near-duplicate-across-patients"][1]) == {stem, "copy"}
    guilty = {named[place][0] for place in inverted}
    assert set(found["image-inverted"][1]) <= guilty
    assert len(found["image-inverted"][1]) >= 0.7 * len(guilty)


def test_measurements_of_a_real_archive_hold_no_file_name(tmp_path: Path) -> None:
    named = list(rows(BREAST, "us", "busbra_usystems"))
    looked_at(tmp_path, named)
    with Archive.open(tmp_path) as archive:
        text = "".join(said for _, _, said in archive.measurements())
    assert len(text) > 500 * len(named)
    assert not any(stem in text for stem, _ in named)
