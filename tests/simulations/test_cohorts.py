"""What simulated sites make of their images: archive, diagnosis, cohort and prepared cases, as at a hospital."""

import json
import shutil
from pathlib import Path

import pytest
from picture_hospitals import SITES, read_rows, write_hospitals
from small_hospitals import scenario

from client.data.archive.archive import Archive
from client.data.cohort.split import split_of
from client.data.dataset import Dataset
from client.data.doctor.findings import Diagnosis, Finding
from server.results import Noted
from shared.errors import RunError, SiteDataError
from simulations import cohorts
from simulations.cohorts import Frozen, forget, freeze_cohorts, prepare_stores, remarks, rule_of
from simulations.federation import find_hospitals
from simulations.progress import Silent
from simulations.scenario import Scenario
from simulations.workers import KEY, SITES_DATA, Pool, Sites, site_cohort


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospitals(tmp_path_factory.mktemp("images"))


def frozen(setting: Scenario, images: Path, out: Path, workers: int = 1) -> dict[str, Frozen]:
    with Pool(Sites(setting.plan, out), workers) as pool:
        return dict(freeze_cohorts(find_hospitals(setting, images, out, pool, Silent()), out, pool, Silent()))


def edited(images: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "edited"))


def test_every_site_freezes_all_its_cases_under_the_plans_rule(images: Path, tmp_path: Path) -> None:
    setting = scenario(tmp_path)
    for site, found in frozen(setting, images, tmp_path / "run").items():
        cohort = site_cohort(tmp_path / "run" / SITES_DATA / site, found.digest)
        with Archive.open(Dataset(tmp_path / "run" / SITES_DATA / site).archive) as archive:
            assert [one.case_id for one in cohort.members] == [record.case_id for record in archive.records()]
        assert (cohort.site, len(cohort.members), cohort.left_out) == (site, 24, ())
        assert cohort.rule == rule_of(setting.plan)
        assert all(one.split == split_of(cohort.rule, site, one.patient) for one in cohort.members)


def test_two_processes_freeze_the_cohorts_of_one(images: Path, tmp_path: Path) -> None:
    one, two = (frozen(scenario(tmp_path), images, tmp_path / f"{workers}", workers) for workers in (1, 2))
    assert one == two
    assert list(one) == sorted(SITES)


def test_every_site_signs_with_a_key_of_its_own_that_nobody_else_can_read(images: Path, tmp_path: Path) -> None:
    frozen(scenario(tmp_path), images, tmp_path / "run")
    keys = list((tmp_path / "run").rglob(KEY))
    assert len(keys) == len({path.read_bytes() for path in keys}) == len(SITES)
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_a_cohort_that_another_site_signed_is_refused(images: Path, tmp_path: Path) -> None:
    found = frozen(scenario(tmp_path), images, tmp_path / "run")
    data = tmp_path / "run" / SITES_DATA
    (data / "bergen" / KEY).write_bytes((data / "aachen" / KEY).read_bytes())
    with pytest.raises(SiteDataError, match="not signed by this site's key"):
        site_cohort(data / "bergen", found["bergen"].digest)


def test_what_a_doctor_notes_is_counted_by_site(images: Path, tmp_path: Path) -> None:
    """An image of one patient is copied over that of another: the doctor of bergen must see both, no other doctor."""
    folder = edited(images, tmp_path)
    shutil.copy(folder / "bergen" / "1-0.png", folder / "bergen" / "3-0.png")
    noted = {site: found.doctor for site, found in frozen(scenario(tmp_path), folder, tmp_path / "run").items()}
    assert noted["bergen"]["duplicate-across-patients"] == Noted("error", 2)
    assert "duplicate-across-patients" not in noted["aachen"]


def test_findings_of_one_code_are_noted_once_with_the_gravest_severity() -> None:
    findings = (
        Finding("a", "note", ("1", "2"), "…"),
        Finding("a", "error", ("2", "3"), "…"),
        Finding("b", "warning", (), "…"),
    )
    found = cohorts._noted(Diagnosis("d", 1, 3, {}, {}, {}, findings))
    assert found == {"a": Noted("error", 3), "b": Noted("warning", 0)}


def test_freezing_again_finds_the_cohort_and_reads_no_image(images: Path, tmp_path: Path) -> None:
    first = frozen(scenario(tmp_path), images, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.segment")}
    assert frozen(scenario(tmp_path), images, tmp_path / "run") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.segment")} == before


def test_other_images_are_refused_unless_cohorts_are_forgotten(images: Path, tmp_path: Path) -> None:
    folder, setting = edited(images, tmp_path), scenario(tmp_path)
    first = frozen(setting, folder, tmp_path / "run")
    rows = read_rows(folder)
    shutil.copy(folder / rows[0]["image"], folder / rows[2]["image"])
    with pytest.raises(RunError, match=r"the images of aachen .*: 0 added, 0 removed, 1 altered"):
        frozen(setting, folder, tmp_path / "run")
    forget(tmp_path / "run")
    second = frozen(setting, folder, tmp_path / "run")
    assert second["aachen"].digest != first["aachen"].digest
    assert second["bergen"].digest == first["bergen"].digest


def test_a_refusal_leaves_the_archive_as_it_was_frozen(images: Path, tmp_path: Path) -> None:
    """Cases that came later are counted, not stored: without them the run goes on."""
    folder, setting = edited(images, tmp_path), scenario(tmp_path)
    manifest = (folder / "manifest.csv").read_text()
    shutil.copy(folder / "aachen" / "0-0.png", folder / "aachen" / "new.png")
    first = frozen(setting, images, tmp_path / "run")
    (folder / "manifest.csv").write_text(manifest + "aachen,p99,aachen/new.png,,dark,f\n")
    with pytest.raises(RunError, match="1 added, 0 removed, 0 altered"):
        frozen(setting, folder, tmp_path / "run")
    assert frozen(setting, images, tmp_path / "run") == first


def test_an_image_that_cannot_be_read_and_is_gone_does_not_count_for_ever(images: Path, tmp_path: Path) -> None:
    folder, setting = edited(images, tmp_path), scenario(tmp_path)
    (folder / "aachen" / "0-0.png").write_bytes(b"no image")
    data = tmp_path / "run" / SITES_DATA / "aachen"
    first = frozen(setting, folder, tmp_path / "run")["aachen"]
    assert site_cohort(data, first.digest).quarantined == (("unreadable-image", 1),)
    rows = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text("\n".join(row for row in rows if "aachen/0-0.png" not in row))
    (folder / "aachen" / "0-0.png").unlink()
    forget(tmp_path / "run")
    second = frozen(setting, folder, tmp_path / "run")["aachen"]
    assert site_cohort(data, second.digest).quarantined == ()


def test_remarks_count_what_could_not_be_read_and_what_the_task_cannot_use(images: Path, tmp_path: Path) -> None:
    folder, setting = edited(images, tmp_path), scenario(tmp_path)
    (folder / "aachen" / "0-0.png").write_bytes(b"no image")
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace("aachen/1-0-mask.png,bright", "aachen/1-0-mask.png,brihgt"))
    with Pool(Sites(setting.plan, tmp_path / "run"), 1) as pool:
        specs = prepare_stores(frozen(setting, folder, tmp_path / "run"), tmp_path / "run", pool, Silent())
        said = list(remarks(pool.sites, specs))
    assert said == ["aachen: 2 of 24 cases set aside (1 label-unknown, 1 unreadable-image)"]


def test_nothing_in_a_frozen_cohort_names_a_patient_or_a_file(images: Path, tmp_path: Path) -> None:
    frozen(scenario(tmp_path), images, tmp_path / "run")
    for path in (tmp_path / "run").rglob("*.cohort"):
        said = json.loads(path.read_bytes().partition(b"\n")[2])
        assert not [one for one in said["members"] if one["patient"].startswith("p") or len(one["patient"]) != 24]
        assert ".png" not in path.read_text()
