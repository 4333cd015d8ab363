"""The DICOM corpus and the three multi-site sets, found as a site would find its own."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from client.data.case_files import Salt
from client.data.source.discover import discover
from client.data.source.found import Found, Table, Wanted
from client.data.source.labels import sites_in

DATA = Path(os.environ.get("CONSILIUM_DATA") or Path(__file__).parents[3] / "shared" / "data")
CORPUS = DATA / "dicom_corpus"
SALT = Salt("corpus", b"realdata-tests-0123456789")
BAD = ("zero_bytes", "random_garbage", "preamble_only", "truncated_in_header", "text_renamed", "jpeg_renamed")

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not beside the project (CONSILIUM_DATA)"),
]


def rows(table: str) -> list[dict[str, str]]:
    path = CORPUS / table
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def corpus() -> Found:
    return discover(Wanted((CORPUS / "files", CORPUS / "derived_bad")), SALT)


def test_every_file_of_the_corpus_has_exactly_one_verdict(corpus: Found) -> None:
    assert len(corpus.files) == len({one.name for one in corpus.files}) == 451
    uses = Counter(one.use for one in corpus.files)
    assert sum(uses.values()) == 451
    assert uses["image"] > 200
    assert all(one.code for one in corpus.files if one.use == "quarantined")
    assert len({one.case_id for one in corpus.cases}) == len(corpus.cases)


def test_every_file_with_pixels_that_can_be_decoded_is_found_or_has_a_reason_that_is_true() -> None:
    """Alone, so that files that share a UID do not stand in each other's way."""
    reasons: Counter[str] = Counter()
    for row in rows("manifest.csv"):
        (one,) = discover(Wanted((CORPUS / row["file"],)), SALT).files
        if row["decode_ok"] == "True" and one.use != "image":
            reasons[one.code] += 1
            assert one.use == "not-an-image" if row["modality"] == "SEG" else one.use == "quarantined", row["file"]
    assert reasons == {"mask-without-image": 19, "dicom-no-uid": 12, "patient-unknown": 18, "tiled-image": 8}


@pytest.mark.parametrize("row", rows("derived_bad.csv"), ids=lambda row: Path(row["file"]).stem)
def test_bad_files_are_set_aside_and_good_ones_found(row: dict[str, str]) -> None:
    """Whether pixels are whole is found when they are decoded: six of the bad ones end here, and no good one."""
    found = discover(Wanted((CORPUS / row["file"],)), SALT)
    assert len(found.cases) == (Path(row["file"]).stem not in BAD)
    assert row["expect"] != "accept" or len(found.cases) == 1


def test_no_value_of_an_identifying_attribute_of_the_corpus_is_in_what_was_found(corpus: Found) -> None:
    said = repr(corpus)
    names = {row["patient_name"] for row in rows("manifest.csv")} | {row["institution"] for row in rows("manifest.csv")}
    long = {name for name in names if len(name) > 5}
    assert len(long) > 20
    assert [name for name in long if name in said] == []
    assert "dicom_corpus" not in said


@pytest.mark.parametrize(
    ("name", "patients", "drop", "expected"),
    [
        (
            "retina_vessels_4cam", ("group", "subject"), (),
            {"chase_db1": (28, 14), "drive": (40, 40), "hrf": (42, 42), "stare": (20, 20)},
        ),
        (
            "sts_mri3d_multivendor", ("patient",), (),
            {"ge": (7, 7), "philips": (6, 6), "siemens": (6, 6), "varian_reexport": (2, 2)},
        ),
        (
            "breast_us_multisite", ("patient",), ("normal",),
            {"busbra_ge_logiq7": (380, 204), "busbra_ge_logiq5": (359, 219), "busbra_toshiba_aplio300": (139, 72),
             "busbra_usystems": (25, 14), "busi_baheya": (295, 295)},
        ),
    ],
)  # fmt: skip
def test_the_sets_have_the_images_and_patients_of_their_readmes(
    name: str, patients: tuple[str, ...], drop: tuple[str, ...], expected: dict[str, tuple[int, int]]
) -> None:
    counted = {}
    for site in sites_in(Table(DATA / name / "manifest.csv"), "site"):
        columns = {"file": ("image",), "patient_id": patients}
        table = Table(DATA / name / "manifest.csv", columns, {"site": site}, drop)
        found = discover(Wanted((DATA / name,), (table,)), Salt(site, bytes(16)))
        assert found.unusable == ()
        assert all(one.mask is not None for one in found.cases)
        counted[site] = (len(found.cases), len({one.patient for one in found.cases}))
    assert counted == expected
