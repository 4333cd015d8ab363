import csv
from pathlib import Path

import pytest

from client.data.case_files import CaseFiles, Salt
from client.data.source.manifest import ManifestSettings, read_manifest, sites_in_manifest
from shared.errors import SiteDataError

SECRET = b"manifest-tests-0123456789"

RETINA = [
    {"site": "hrf", "image": "hrf/06_g.jpg", "mask": "hrf/06_g.png", "subject": "06", "group": "g"},
    {"site": "hrf", "image": "hrf/06_h.jpg", "mask": "hrf/06_h.png", "subject": "06", "group": "h"},
    {"site": "hrf", "image": "hrf/06_h2.jpg", "mask": "", "subject": "06", "group": "h"},
    {"site": "chase", "image": "chase/06.jpg", "mask": "chase/06.png", "subject": "06", "group": ""},
]
BREAST = [
    {"site": "usys", "image": "usys/1-l.png", "label": "benign", "patient": "p1", "age": "63", "device": "U"},
    {"site": "usys", "image": "usys/1-r.png", "label": "malignant", "patient": "p1", "age": "63", "device": "U"},
    {"site": "busi", "image": "busi/1.png", "label": "normal", "patient": "", "age": "", "device": ""},
    {"site": "busi", "image": "busi/2.png", "label": "benign", "patient": "", "age": "91", "device": ""},
    {"site": "busi", "image": "busi/3.png", "label": "", "patient": "", "age": "17", "device": ""},
]
BY_GROUP_AND_SUBJECT = ManifestSettings(modality="fundus", patient_columns=("group", "subject"))


def manifest(folder: Path, rows: list[dict[str, str]]) -> Path:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def refusal(folder: Path, site: str = "usys", settings: ManifestSettings | None = None) -> SiteDataError:
    with pytest.raises(SiteDataError) as caught:
        read_manifest(folder, site, settings or ManifestSettings(), SECRET)
    return caught.value


def patients(files: list[CaseFiles]) -> list[str]:
    return [one.patient for one in files]


def test_the_sites_are_those_of_the_rows_sorted(tmp_path: Path) -> None:
    assert sites_in_manifest(manifest(tmp_path, RETINA)) == ("chase", "hrf")


def test_a_site_has_its_own_rows_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    files = read_manifest(manifest(tmp_path, RETINA), "hrf", BY_GROUP_AND_SUBJECT, SECRET)
    assert [one.images for one in files] == [(tmp_path / row["image"],) for row in RETINA[:3]]
    assert [one.mask for one in files] == [tmp_path / "hrf/06_g.png", tmp_path / "hrf/06_h.png", None]
    assert {one.modality for one in files} == {"fundus"}


def test_a_patient_is_all_patient_columns_together(tmp_path: Path) -> None:
    files = read_manifest(manifest(tmp_path, RETINA), "hrf", BY_GROUP_AND_SUBJECT, SECRET)
    healthy_and_glaucoma_share_a_number = patients(files)
    assert len(set(healthy_and_glaucoma_share_a_number)) == 2
    assert files[1].patient == files[2].patient
    assert files[0].patient == Salt("hrf", SECRET).person("g", "06")


def test_an_image_of_nobody_known_is_its_own_patient(tmp_path: Path) -> None:
    files = read_manifest(manifest(tmp_path, BREAST), "busi", ManifestSettings(), SECRET)
    assert len(set(patients(files))) == len(files) == 3


def test_one_patient_with_two_images_is_one_patient(tmp_path: Path) -> None:
    files = read_manifest(manifest(tmp_path, BREAST), "usys", ManifestSettings(), SECRET)
    assert len(files) == 2
    assert len(set(patients(files))) == 1
    assert len({one.case_id for one in files}) == 2


def test_rows_of_dropped_labels_are_no_cases_and_others_may_be_renamed(tmp_path: Path) -> None:
    settings = ManifestSettings(drop_labels=("normal",), rename_labels={"malignant": "cancer"})
    folder = manifest(tmp_path, BREAST)
    assert [one.label for one in read_manifest(folder, "busi", settings, SECRET)] == ["benign", None]
    assert [one.label for one in read_manifest(folder, "usys", settings, SECRET)] == ["benign", "cancer"]


def test_subgroups_are_the_columns_asked_for_with_ages_in_bands(tmp_path: Path) -> None:
    settings = ManifestSettings(subgroup_columns=("age", "device"))
    found = [one.subgroups for one in read_manifest(manifest(tmp_path, BREAST), "busi", settings, SECRET)]
    assert found == [
        (("age", "unknown"), ("device", "unknown")),
        (("age", "80+"), ("device", "unknown")),
        (("age", "0-17"), ("device", "unknown")),
    ]


def test_names_do_not_depend_on_which_other_rows_there_are(tmp_path: Path) -> None:
    whole = read_manifest(manifest(tmp_path, BREAST), "usys", ManifestSettings(), SECRET)
    alone = read_manifest(manifest(tmp_path, [BREAST[1]]), "usys", ManifestSettings(), SECRET)
    assert alone == [whole[1]]


def test_no_identifier_survives_in_a_name(tmp_path: Path) -> None:
    for one in read_manifest(manifest(tmp_path, BREAST), "usys", ManifestSettings(), SECRET):
        assert "p1" not in one.case_id + one.patient
        assert "usys" not in repr(one)


def test_a_missing_image_is_left_for_preparation_to_find(tmp_path: Path) -> None:
    files = read_manifest(manifest(tmp_path, BREAST), "usys", ManifestSettings(), SECRET)
    assert not files[0].images[0].exists()


def test_an_unknown_site_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    error = refusal(manifest(tmp_path, BREAST), "bus")
    assert (error.code, error.hint) == ("site-unknown", "did you mean 'busi'?")
    assert refusal(tmp_path, "zzz").hint == "it has: busi, usys"


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).code == "table-missing"
    with pytest.raises(SiteDataError):
        sites_in_manifest(tmp_path)


@pytest.mark.parametrize("column", ["site", "image", "patient", "device"])
def test_a_missing_column_is_refused_by_name(tmp_path: Path, column: str) -> None:
    rows = [{name: value for name, value in row.items() if name != column} for row in BREAST]
    error = refusal(manifest(tmp_path, rows), settings=ManifestSettings(subgroup_columns=("device",)))
    assert error.code == "table-column"
    assert repr(column) in error.sentence


def test_the_mask_and_label_columns_may_be_missing(tmp_path: Path) -> None:
    rows = [{"site": "a", "image": "1.png", "patient": "7"}]
    (one,) = read_manifest(manifest(tmp_path, rows), "a", ManifestSettings(), SECRET)
    assert (one.mask, one.label) == (None, None)


@pytest.mark.parametrize(("column", "value"), [("image", "../x.png"), ("image", "/x.png"), ("mask", "../../x.png")])
def test_a_path_that_leaves_the_folder_refuses_the_manifest(tmp_path: Path, column: str, value: str) -> None:
    error = refusal(
        manifest(tmp_path, [*RETINA, {**RETINA[0], "image": "other.jpg", column: value}]), "hrf", BY_GROUP_AND_SUBJECT
    )
    assert error.code == "path-outside"
    assert "row 6" in error.sentence


@pytest.mark.parametrize("again", ["usys/1-l.png", "./usys/1-l.png", "usys//1-l.png"])
def test_an_image_that_is_listed_twice_refuses_the_manifest(tmp_path: Path, again: str) -> None:
    error = refusal(manifest(tmp_path, [*BREAST, {**BREAST[0], "image": again, "patient": "p2"}]))
    assert error.code == "duplicate-image"
    assert "rows 2 and 7" in error.sentence


def test_a_row_without_image_refuses_the_manifest(tmp_path: Path) -> None:
    assert refusal(manifest(tmp_path, [{**BREAST[0], "image": " "}])).code == "no-image"
