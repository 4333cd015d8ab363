"""From a scenario to sites with prepared cases: sources, broken hospitals, dealing anew, half-written folders."""

import csv
import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from picture_hospitals import SITES, read_rows, write_hospitals, write_rows
from small_hospitals import contents, scenario

from client.data.prepared.site_data import unusable
from client.data.prepared.store import Store
from shared.errors import ScenarioError, SiteDataError
from shared.secure.names import require_name
from simulations import federation
from simulations.cohorts import freeze_cohorts, prepare_stores
from simulations.federation import Hospital, find_hospitals, require_source
from simulations.phantoms.hospitals import FOUR_HOSPITALS
from simulations.progress import Silent
from simulations.scenario import Scenario, load
from simulations.workers import Pool, Sites, SiteSpec, site_cohort

TINY_PHANTOMS = ("scenario.source.hospitals=3", "scenario.source.size=tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest; copy it before changing it."""
    return write_hospitals(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which three synthetic hospitals have been written; copy it before changing it."""
    out = tmp_path_factory.mktemp("phantoms")
    found(load("hundred-sites", TINY_PHANTOMS), None, out)
    return out


@pytest.fixture
def written(phantoms: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantoms, tmp_path / "run"))


def pool(setting: Scenario, out: Path) -> Pool:
    return Pool(Sites(setting.plan, out), workers=1)


def found(setting: Scenario, data: Path | None, out: Path) -> tuple[Hospital, ...]:
    return find_hospitals(setting, data, out, pool(setting, out), Silent())


def patients(hospital: Hospital) -> set[str]:
    return {one.patient for one in hospital.found.cases}


def prepared(setting: Scenario, hospitals: tuple[Hospital, ...], out: Path) -> Iterator[tuple[SiteSpec, Store]]:
    cohorts = freeze_cohorts(hospitals, out, pool(setting, out), Silent())
    for spec in prepare_stores(cohorts, out, pool(setting, out), Silent()):
        yield spec, Store.open(spec.store)


def test_the_sites_of_a_manifest_come_sorted_with_all_their_cases(images: Path, tmp_path: Path) -> None:
    hospitals = found(scenario(tmp_path), images, tmp_path)
    assert [hospital.name for hospital in hospitals] == sorted(SITES)
    assert [len(hospital.found.cases) for hospital in hospitals] == [24, 24, 24]
    assert [len(patients(hospital)) for hospital in hospitals] == [12, 12, 12]
    assert {one.subgroups for hospital in hospitals for one in hospital.found.cases} == {
        (("sex", "f"),),
        (("sex", "m"),),
    }


def test_reading_a_manifest_changes_nothing_in_its_folder(images: Path, tmp_path: Path) -> None:
    before = contents(images)
    setting = scenario(tmp_path)
    list(prepared(setting, found(setting, images, tmp_path), tmp_path / "run"))
    assert contents(images) == before


def test_names_of_patients_are_salted_by_site_and_by_seed(images: Path, tmp_path: Path) -> None:
    """The manifest calls them p0 to p11 at every site."""
    first, again = (found(scenario(tmp_path), images, tmp_path) for _ in range(2))
    other = found(scenario(tmp_path, plan__seed=5), images, tmp_path)
    everybody = [name for hospital in first for name in patients(hospital)]
    assert len(set(everybody)) == len(everybody) == 36
    assert not any(name.startswith("p") for name in everybody)
    assert first == again
    assert not set(everybody) & {name for hospital in other for name in patients(hospital)}


def test_labels_that_the_scenario_drops_are_no_cases_and_nothing_unusable(images: Path, tmp_path: Path) -> None:
    source = {"kind": "manifest", "drop_labels": ["bright"]}
    hospitals = found(scenario(tmp_path, scenario__source=source), images, tmp_path)
    assert {one.label for hospital in hospitals for one in hospital.found.cases} == {"dark"}
    assert all(hospital.found.unusable == () for hospital in hospitals)


def test_several_columns_name_a_patient_together(images: Path, tmp_path: Path) -> None:
    source = {"kind": "manifest", "patient_columns": ["patient", "sex"]}
    hospitals = found(scenario(tmp_path, scenario__source=source), images, tmp_path)
    assert all(len(patients(hospital)) == 12 for hospital in hospitals)


def test_every_site_has_its_store_of_checked_cases(images: Path, tmp_path: Path) -> None:
    setting = scenario(tmp_path)
    stores = dict(prepared(setting, found(setting, images, tmp_path), tmp_path / "run"))
    assert [spec.name for spec in stores] == sorted(SITES)
    for store in stores.values():
        assert len(store) == 24
        assert store.case(0).voxels.shape == (1, 16, 16)
        assert Counter(entry.label for entry in store.entries) == {0: 12, 1: 12}


def test_a_second_preparation_finds_the_first_one_s_stores(images: Path, tmp_path: Path) -> None:
    setting = scenario(tmp_path)
    hospitals = found(setting, images, tmp_path)
    list(prepared(setting, hospitals, tmp_path / "run"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.segment")}
    list(prepared(setting, hospitals, tmp_path / "run"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.segment")} == before


def test_real_images_must_be_said_where(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="needs real images") as refused:
        require_source(scenario(tmp_path), None)
    assert "--data FOLDER" in refused.value.hint


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"holds no manifest\.csv"):
        require_source(scenario(tmp_path), tmp_path / "nowhere")


def test_images_given_to_a_scenario_that_makes_its_own_are_refused_rather_than_ignored(images: Path) -> None:
    with pytest.raises(ScenarioError, match="makes its own images"):
        require_source(load("demo"), images)
    require_source(load("demo"), None)


def test_a_manifest_with_a_bad_row_is_refused_as_a_whole_with_the_row(images: Path, tmp_path: Path) -> None:
    rows = read_rows(images)
    rows[4]["image"] = ""
    write_rows(tmp_path, rows)
    with pytest.raises(SiteDataError, match="row 6 of the manifest names no image"):
        found(scenario(tmp_path), tmp_path, tmp_path)


SECURE: dict[str, Any] = {
    "aggregation__fixed_point": {"range": 4.0, "bits": 24},
    "evaluation__release": "sum",
    "secure_aggregation__enabled": True,
}


def renamed(images: Path, name: str) -> None:
    """The manifest calls its first site ``name``."""
    rows, first = read_rows(images), sorted(SITES)[0]
    write_rows(images, [row | {"site": name} if row["site"] == first else row for row in rows])


@pytest.mark.parametrize("name", ["St. Mary's", "north/1", "..", "", "a" * 64], ids=["'", "/", "..", "none", "long"])
def test_a_site_that_could_sign_no_secure_sum_is_refused_before_an_image_is_read(
    images: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    renamed(folder, name)
    monkeypatch.setattr(federation, "discover", lambda *_: pytest.fail("images were read"))
    with pytest.raises(
        SiteDataError, match=r"in row 2 of the manifest, of \d+ characters, is none that can stand in a secure sum"
    ) as caught:
        found(scenario(tmp_path, **SECURE), folder, tmp_path)
    assert caught.value.code == "site-name"
    assert "letters, digits" in caught.value.hint
    assert name == "" or name not in str(caught.value), "somebody may have mapped another column to it"


def test_the_same_site_may_take_part_where_nothing_is_masked(images: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    renamed(folder, "St. Mary's")
    assert "St. Mary's" in {one.name for one in found(scenario(tmp_path), folder, tmp_path)}


@pytest.mark.parametrize("name", ["..", "../x", "/x", ".", "north/1"])
def test_no_site_s_name_leads_out_of_the_run_s_folder(images: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    renamed(folder, name)
    with pytest.raises(SiteDataError, match="row 2 of the manifest leads out of the folder") as caught:
        found(scenario(tmp_path), folder, tmp_path)
    assert caught.value.code == "site-name"


def test_names_that_no_site_will_have_are_not_judged(images: Path, tmp_path: Path) -> None:
    """Cases that are dealt anew get sites with other names."""
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    renamed(folder, "St. Mary's")
    dealt = found(scenario(tmp_path, **SECURE, scenario__partition={"kind": "iid", "sites": 3}), folder, tmp_path)
    assert len(dealt) == 3
    for one in dealt:
        require_name(one.name)


def test_synthetic_hospitals_have_names_that_may_sign(phantoms: Path) -> None:
    names = [path.stem for path in (phantoms / federation.HOSPITALS / "truth").iterdir()]
    assert len(names) == 3
    for name in names:
        require_name(name)


def test_synthetic_hospitals_are_dicom_with_labels_masks_and_the_truth_outside(phantoms: Path) -> None:
    names = ["clinic-001", "clinic-002", "clinic-003"]
    assert sorted(path.name for path in (phantoms / "hospitals" / "truth").iterdir()) == [f"{n}.csv" for n in names]
    for name in names:
        folder = phantoms / "hospitals" / name
        assert sorted(path.name for path in folder.iterdir()) == ["dicom", "labels.csv", "masks"]
        assert len(list((folder / "dicom").iterdir())) == 12


def test_synthetic_hospitals_are_read_by_what_their_files_say(written: Path) -> None:
    """Oracle: labels.csv, counted here by series, against the cases that were found."""
    hospitals = found(load("hundred-sites", TINY_PHANTOMS), None, written)
    for hospital in hospitals:
        with (written / "hospitals" / hospital.name / "labels.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert Counter(one.label for one in hospital.found.cases) == Counter(row["label"] for row in rows)
        assert len(patients(hospital)) == 4


def test_a_hospital_that_is_there_is_not_written_again(written: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (written / "hospitals").rglob("*.dcm")}
    found(load("hundred-sites", TINY_PHANTOMS), None, written)
    assert {path: path.stat().st_mtime_ns for path in (written / "hospitals").rglob("*.dcm")} == before


@pytest.mark.parametrize("left", ["half-written", "written-without-a-name", "truth-moved-only"])
def test_a_hospital_whose_writing_was_interrupted_is_written_to_the_same_bytes(
    written: Path, phantoms: Path, left: str
) -> None:
    hospitals, unfinished = written / "hospitals", written / "hospitals" / ".unfinished" / "clinic-002"
    unfinished.mkdir(parents=True, exist_ok=True)
    (hospitals / "clinic-002").rename(unfinished / "clinic-002")
    if left == "half-written":
        for path in list((unfinished / "clinic-002" / "dicom").iterdir())[:5]:
            path.unlink()
        (unfinished / "clinic-002" / "labels.csv").unlink()
    if left != "truth-moved-only":
        (hospitals / "truth" / "clinic-002.csv").unlink()
    found(load("hundred-sites", TINY_PHANTOMS), None, written)
    assert contents(hospitals / "clinic-002") == contents(phantoms / "hospitals" / "clinic-002")
    assert contents(hospitals / "truth") == contents(phantoms / "hospitals" / "truth")


def test_hospitals_of_another_seed_are_other_hospitals(phantoms: Path, tmp_path: Path) -> None:
    found(load("hundred-sites", ("scenario.source.hospitals=1", "scenario.source.size=tiny"), seed=8), None, tmp_path)
    same, other = (contents(folder / "hospitals" / "clinic-001") for folder in (phantoms, tmp_path))
    assert same.keys() == other.keys()
    assert not {name for name in same if same[name] == other[name] and name.startswith("dicom/")}


@pytest.mark.parametrize(("ruin", "code"), [("no-folder", "source-missing"), ("no-column", "table-column")])
def test_a_hospital_broken_as_a_whole_becomes_a_site_without_cases_that_says_why(
    written: Path, ruin: str, code: str
) -> None:
    folder = written / "hospitals" / "clinic-002"
    if ruin == "no-folder":
        (folder / "dicom").rename(folder / "images")
    else:
        (folder / "labels.csv").write_text("series,label\n1.2.3,benign\n")
    setting = load("hundred-sites", TINY_PHANTOMS)
    hospitals = found(setting, None, written)
    assert [len(hospital.found.cases) for hospital in hospitals] == [12, 0, 12]
    stores = {spec.name: (spec, store) for spec, store in prepared(setting, hospitals, written)}
    spec, store = stores["clinic-002"]
    assert unusable(store, site_cohort(spec.data, spec.cohort)) == {code: 1}
    assert (len(store), len(stores["clinic-001"][1])) == (0, 12)


@pytest.mark.slow
def test_the_demo_s_hospitals_come_with_faults_that_are_quarantined_by_reason(tmp_path: Path) -> None:
    """Oracle: the faults that the hospitals declare. Of a file cut short, raw pixels still have a header."""
    expected = {
        "north": ["undecodable-pixels"],
        "east": ["mask-shape", "unreadable-dicom"],
        "south": ["unreadable-dicom"],
        "west": ["mask-shape", "unreadable-dicom"],
    }
    setting = load("demo")
    for spec, store in prepared(setting, found(setting, None, tmp_path), tmp_path):
        assert sorted(unusable(store, site_cohort(spec.data, spec.cohort)).elements()) == expected[spec.name]
    assert {one.name: len(one.faults) for one in FOUR_HOSPITALS} == {
        name: len(codes) for name, codes in expected.items()
    }


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity"])
def test_cases_dealt_anew_are_all_there_once_and_patients_stay_whole(images: Path, tmp_path: Path, kind: str) -> None:
    natural = found(scenario(tmp_path), images, tmp_path)
    dealt = found(scenario(tmp_path, scenario__partition={"kind": kind, "sites": 5}), images, tmp_path)
    assert [hospital.name for hospital in dealt] == [f"site-{place:02d}" for place in range(1, 6)]
    everything = Counter(one.case_id for hospital in dealt for one in hospital.found.cases)
    assert everything == Counter(one.case_id for hospital in natural for one in hospital.found.cases)
    homes = [patients(hospital) for hospital in dealt]
    assert sum(map(len, homes)) == len(set.union(*homes)) == 36
    assert all(homes)


def test_dealing_at_random_makes_equal_sites_and_a_small_alpha_does_not(images: Path, tmp_path: Path) -> None:
    iid = found(scenario(tmp_path, scenario__partition={"kind": "iid", "sites": 4}), images, tmp_path)
    uneven = {"kind": "quantity", "sites": 4, "alpha": 0.2}
    quantity = found(scenario(tmp_path, scenario__partition=uneven), images, tmp_path)
    assert sorted(len(patients(hospital)) for hospital in iid) == [9, 9, 9, 9]
    assert max(len(patients(hospital)) for hospital in quantity) > 15


@pytest.mark.parametrize("kind", ["dirichlet", "quantity"])
def test_the_strength_of_the_skew_reaches_the_deal(images: Path, tmp_path: Path, kind: str) -> None:
    """How strong a skew an alpha makes is ``test_partition``'s."""

    def deal(alpha: float) -> list[set[str]]:
        skew = {"kind": kind, "sites": 4, "alpha": alpha}
        return [patients(one) for one in found(scenario(tmp_path, scenario__partition=skew), images, tmp_path)]

    assert deal(0.1) == deal(0.1)
    assert deal(0.1) != deal(1000.0)


def test_without_a_number_as_many_sites_are_dealt_as_there_are_hospitals(images: Path, tmp_path: Path) -> None:
    assert len(found(scenario(tmp_path, scenario__partition={"kind": "iid"}), images, tmp_path)) == 3


def test_more_sites_than_patients_are_refused_with_both_numbers(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="36 patients do not make 40 sites"):
        found(scenario(tmp_path, scenario__partition={"kind": "iid", "sites": 40}), images, tmp_path)


def test_the_same_seed_deals_the_same_and_another_differently(images: Path, tmp_path: Path) -> None:
    def homes(seed: int) -> list[set[str]]:
        """By image content: names are salted with the seed."""
        setting = scenario(tmp_path, plan__seed=seed, scenario__partition={"kind": "iid", "sites": 4})
        return [{one.images[0].key for one in hospital.found.cases} for hospital in found(setting, images, tmp_path)]

    assert homes(4) == homes(4)
    assert homes(4) != homes(5)


def test_what_was_unusable_before_dealing_still_counts_somewhere(written: Path) -> None:
    (next((written / "hospitals" / "clinic-001" / "dicom").iterdir())).write_bytes(b"")
    (next((written / "hospitals" / "clinic-003" / "dicom").iterdir())).write_bytes(b"no image")
    dealt = found(load("hundred-sites", (*TINY_PHANTOMS, "scenario.partition.kind=iid")), None, written)
    assert sum(len(hospital.found.cases) for hospital in dealt) == 34
    assert sorted(len(hospital.found.unusable) for hospital in dealt) == [0, 1, 1]


@pytest.mark.parametrize("kind", ["iid", "quantity"])
def test_a_dealt_federation_trains_like_any_other(images: Path, tmp_path: Path, kind: str) -> None:
    setting = scenario(tmp_path, scenario__partition={"kind": kind, "sites": 3, "alpha": 5.0})
    stores = dict(prepared(setting, found(setting, images, tmp_path), tmp_path / "run"))
    assert sum(len(store) for store in stores.values()) == 72


def test_a_volume_plan_gets_synthetic_volumes_and_a_slice_plan_slices() -> None:
    flat = load("demo")
    deep = load("demo", ("preprocessing.size=[32, 96, 96]", "training.augmentation.flip=true"))
    source = dataclasses.replace(flat).setting.source
    for setting, dimensions in ((flat, 2), (deep, 3)):
        made = federation._phantoms(source, setting.plan)  # type: ignore[arg-type]
        assert {hospital.dimensions for hospital in made.hospitals} == {dimensions}
