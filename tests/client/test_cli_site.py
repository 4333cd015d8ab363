"""``consilium-site`` as hospital IT types it, from an empty folder to a frozen cohort, over a hospital of 16 images."""

import hashlib
import json
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import tomli_w
from picture_hospitals import read_rows, write_rows
from small_hospitals import Said, contents, document
from small_site import site, write_hospital

from client.data.archive.archive import Archive
from client.data.cohort import files as cohort_files
from client.data.cohort.drift import Drift, drift
from client.site_folder import SiteFolder
from shared.plan import from_document
from simulations.phantoms import write_hospitals as write_phantoms
from simulations.phantoms.hospitals import hospitals

Capsys = pytest.CaptureFixture[str]
COMMANDS = (
    ["init"],
    ["ingest"],
    ["doctor"],
    ["freeze"],
    ["budget"],
    ["check"],
    ["self-test"],
    ["audit"],
    ["audit", "verify"],
)


class Hospital:
    """A site, a source beside it, and the words to ingest it."""

    def __init__(self, capsys: Capsys, folder: Path, *init: object) -> None:
        self.capsys, self.home, self.source = capsys, folder / "site", folder / "source"
        self.words = write_hospital(self.source)
        assert site(capsys, "init", self.home, "--name", "north", *init).status == 0
        self.set('workers = "auto"', "workers = 1")

    def says(self, *words: object) -> Said:
        return site(self.capsys, *words, "--site", self.home)

    def ingest(self, *more: object) -> Said:
        return self.says("ingest", *self.words, "--dataset", "squares", *more)

    def doctor(self) -> Said:
        return self.says("doctor", "--dataset", "squares")

    def freeze(self, *more: object) -> Said:
        return self.says("freeze", "--dataset", "squares", *more)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.home / "audit.jsonl").read_text().splitlines()]

    def set(self, before: str, after: str) -> None:
        """Change a line of site.toml."""
        text = (self.home / "site.toml").read_text()
        assert before in text
        (self.home / "site.toml").write_text(text.replace(before, after))

    def rewrite(self, **changes: str) -> None:
        """Give every row of the table the same values in some columns."""
        write_rows(self.source, [row | changes for row in read_rows(self.source)])


@pytest.fixture
def hospital(capsys: Capsys, tmp_path: Path) -> Hospital:
    return Hospital(capsys, tmp_path)


def plant_copy(hospital: Hospital) -> None:
    """The same image, with the same mask, of two patients."""
    folder = hospital.source / "aachen"
    for kind in ("", "-mask"):
        shutil.copy(folder / f"0-0{kind}.png", folder / f"7-1{kind}.png")


def settled(hospital: Hospital) -> list[str]:
    """Options that accept every error the doctor reports."""
    found = json.loads(hospital.says("doctor", "--dataset", "squares", "--json").out)["findings"]
    codes = sorted({one["code"] for one in found if one["severity"] == "error"})
    return [word for code in codes for word in ("--accept-findings", code)]


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_every_help_fits_on_one_screen(capsys: Capsys, command: list[str]) -> None:
    said = site(capsys, *command, "--help")
    lines = said.out.splitlines()
    assert (said.status, said.err) == (0, "")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(" ".join(["Usage: consilium-site", *command]))
    assert "\\[" not in said.out
    assert "..." not in said.out.partition("Commands:")[2], "no description is cut short"


def test_help_needs_none_of_the_heavy_imports() -> None:
    script = "import sys, client.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "client.cli" in loaded
    assert not {"torch", "pydicom", "matplotlib", "cryptography", "scipy"} & set(loaded)


# --- init ------------------------------------------------------------------------------------------------------------


def test_init_says_what_it_made_the_key_s_fingerprint_and_what_to_back_up(capsys: Capsys, tmp_path: Path) -> None:
    said = site(capsys, "init", tmp_path / "north")
    made = SiteFolder.open(tmp_path / "north")
    assert said.status == 0
    assert made.settings.site.name == "north", "without --name, the folder's"
    for name in (
        "site.toml",
        "policy.toml",
        "keys/identity.pem",
        "keys/pseudonyms.secret",
        "ledger.sqlite",
        "audit.jsonl",
    ):
        assert f"  {name}\n" in said.out
    assert made.signing_key().verify_key.fingerprint() in said.out
    assert "back up" in said.err
    assert str(tmp_path / "north" / "keys") in said.err


def test_no_secret_is_printed(capsys: Capsys, tmp_path: Path) -> None:
    said = site(capsys, "init", tmp_path / "north", "--encryption", "aes-gcm")
    made = SiteFolder.open(tmp_path / "north")
    for secret in (made.salt().secret, made.store_key({})):
        assert secret is not None
        assert secret.hex() not in said.out + said.err


def test_init_refuses_a_folder_that_is_not_empty_and_a_name_that_is_none(capsys: Capsys, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    full = site(capsys, "init", tmp_path, "--name", "north")
    assert (full.status, full.out) == (1, "")
    assert full.err.startswith(f"error: {tmp_path} is not empty: it holds 1 files or folders\nhint:  ")
    named = site(capsys, "init", tmp_path / "x", "--name", "Nord Klinik")
    assert (named.status, named.err.splitlines()[0]) == (1, "error: 'Nord Klinik' cannot name a site")
    assert not (tmp_path / "x").exists()


# --- ingest ----------------------------------------------------------------------------------------------------------


def test_ingest_stores_every_case_and_says_so(hospital: Hospital) -> None:
    said = hospital.ingest()
    assert (said.status, said.err) == (0, "")
    assert "The data set holds 16 cases; 0.0% are quarantined." in said.out
    found = SiteFolder.open(hospital.home)
    with Archive.open(found.dataset("squares").archive) as archive:
        records = list(archive.records())
    assert len(records) == 16
    assert len({record.patient for record in records}) == 8
    assert {record.label for record in records} == {"bright", "dark"}
    assert all(record.masked for record in records)


def test_json_holds_counts_that_add_up_and_nothing_else_goes_to_stdout(hospital: Hospital) -> None:
    (hospital.source / "aachen" / "note.txt").write_text("no image")
    told = json.loads(hospital.ingest("--json").out)
    assert told["cases"] == told["ingest"]["stored"] == 16
    assert sum(told["ingest"]["files"].values()) == sum(1 for path in hospital.words[0].iterdir())  # type: ignore[attr-defined]


def test_a_second_ingest_does_nothing_and_a_third_what_is_new(hospital: Hospital) -> None:
    hospital.ingest()
    again = json.loads(hospital.ingest("--json").out)["ingest"]
    assert (again["stored"], again["unchanged"]) == (0, 16)
    one = next(path for path in sorted((hospital.source / "aachen").iterdir()) if "mask" not in path.name)
    with PIL.Image.open(one) as image:
        image.transpose(PIL.Image.Transpose.ROTATE_90).save(one)
    third = json.loads(hospital.ingest("--json").out)["ingest"]
    assert (third["stored"], third["replaced"], third["unchanged"]) == (0, 1, 15)


def test_nothing_in_the_source_is_changed(hospital: Hospital) -> None:
    before = contents(hospital.source)
    hospital.ingest()
    hospital.doctor()
    assert contents(hospital.source) == before


def test_a_later_ingest_with_other_choices_is_refused_and_says_which(hospital: Hospital) -> None:
    hospital.ingest("--dimensions", "2")
    before = contents(hospital.home)
    refused = hospital.ingest("--dimensions", "3", "--modality", "ct")
    assert refused.status == 1
    assert "was begun with other choices: dimensions 2, now 3; modality other, now ct\nhint:  " in refused.err
    assert contents(hospital.home) == before
    assert hospital.ingest().status == 0, "what is left out is as at the first ingest"


def test_a_forgotten_table_is_asked_for_and_labels_are_not_lost(hospital: Hospital) -> None:
    hospital.ingest()
    before = contents(hospital.home / "datasets")
    refused = hospital.says("ingest", hospital.words[0], "--dataset", "squares")
    assert refused.status == 1
    assert refused.err.startswith("error: tables have said more about 16 of 16 cases, and none is given now\nhint:  ")
    assert contents(hospital.home / "datasets") == before


def test_a_misspelt_column_to_report_by_is_refused_before_anything_is_read(hospital: Hospital) -> None:
    refused = hospital.ingest("--subgroup", "sexx")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == "error: no table has the column 'sexx' to report by\nhint:  did you mean 'sex'?\n"
    assert not (hospital.home / "datasets" / "squares").exists()
    assert hospital.ingest("--subgroup", "sex").status == 0


def test_a_damaged_image_is_not_frozen_and_is_read_again_when_asked_for(hospital: Hospital) -> None:
    hospital.ingest()
    hospital.doctor()
    (segment,) = sorted((hospital.home / "datasets" / "squares" / "archive" / "segments").iterdir())
    content = bytearray(segment.read_bytes())
    content[40] ^= 1
    segment.write_bytes(content)
    refused = hospital.freeze()
    assert refused.status == 1
    assert "does not hold what was stored" in refused.err
    assert "--check-stored" in refused.err
    trusting = json.loads(hospital.ingest("--json").out)["ingest"]
    assert (trusting["stored"], trusting["unchanged"]) == (0, 16)
    checking = json.loads(hospital.ingest("--check-stored", "--json").out)["ingest"]
    assert (checking["stored"], checking["unchanged"]) == (1, 15)
    hospital.doctor()
    assert hospital.freeze().status == 0


def test_files_that_are_set_aside_are_named_to_who_asks_and_nowhere_else(hospital: Hospital) -> None:
    (hospital.source / "aachen" / "Mueller^Anna.dcm").write_bytes(b"no image")
    hospital.ingest()
    said = hospital.says("quarantined", hospital.words[0], "--dataset", "squares")
    assert said.out == f"unreadable-dicom\t{hospital.source / 'aachen' / 'Mueller^Anna.dcm'}\n"
    held = b"".join(path.read_bytes() for path in hospital.home.rglob("*") if path.is_file())
    assert b"Mueller" not in held


def test_a_stored_case_that_cannot_be_read_any_more_says_why(hospital: Hospital) -> None:
    hospital.ingest()
    one = next(path for path in sorted((hospital.source / "aachen").iterdir()) if "mask" not in path.name)
    one.write_bytes(b"\x89PNG\r\n\x1a\n cut")
    told = json.loads(hospital.ingest("--json").out)["ingest"]
    assert (told["kept"], told["unread"]) == (1, {"unreadable-image": 1})


def test_above_the_declared_quota_ingest_ends_with_1_and_nothing_is_lost(hospital: Hospital) -> None:
    images = sorted(path for path in (hospital.source / "aachen").iterdir() if "mask" not in path.name)
    for path in images[:4]:
        path.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    said = hospital.ingest()
    assert said.status == 1
    assert said.err.startswith("error: 25.0% of the cases are quarantined, the declared quota is 20.0%\nhint:  ")
    assert "The data set holds 12 cases" in said.out
    hospital.doctor()
    assert "quota is 20.0%" in hospital.freeze().err
    hospital.set("quota = 0.2", "quota = 0.3")
    assert hospital.ingest().status == 0


def test_a_source_that_is_not_there_is_told_by_its_place_and_not_by_its_name(hospital: Hospital) -> None:
    missing = hospital.source / "Mueller^Anna"
    said = hospital.says("ingest", hospital.source, missing, "--dataset", "squares")
    assert (said.status, said.err.splitlines()[0]) == (1, "error: source 2 of 2 is not there")
    assert "Mueller" not in said.out + said.err
    assert not (hospital.home / "datasets" / "squares").exists()


def test_a_table_that_cannot_be_used_begins_no_data_set(hospital: Hospital) -> None:
    said = hospital.says("ingest", hospital.source, "--labels", hospital.source / "none.csv", "--dataset", "squares")
    assert said.status == 1
    assert list((hospital.home / "datasets").iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--column", "patient_id"],
        ["--where", "site"],
        ["--structure", "GTV=0"],
        ["--dimensions", "4"],
        ["--modality", "pet"],
        ["--workers", "0"],
    ],
)
def test_wrong_usage_is_2_with_the_help_to_ask_for(hospital: Hospital, words: list[str]) -> None:
    said = hospital.ingest(*words)
    assert said.status == 2
    assert said.err.splitlines()[-1] == "hint:  consilium-site ingest --help"


def test_an_encrypted_site_needs_its_key_and_keeps_images_from_those_without(capsys: Capsys, tmp_path: Path) -> None:
    hospital = Hospital(capsys, tmp_path, "--encryption", "aes-gcm")
    assert hospital.ingest().status == 0
    key = (hospital.home / "keys/store.key").read_text().strip()
    (hospital.home / "keys/store.key").unlink()
    refused = hospital.doctor()
    assert refused.status == 1
    assert "neither store.key nor CONSILIUM_STORE_KEY" in refused.err
    words = ("ingest", *hospital.words, "--dataset", "squares", "--site", hospital.home)
    assert site(capsys, *words, environ={"CONSILIUM_STORE_KEY": key}).status == 0
    assert site(capsys, *words, environ={"CONSILIUM_STORE_KEY": "ab" * 32}).status == 1
    short = site(capsys, *words, environ={"CONSILIUM_STORE_KEY": "ab"})
    assert "holds 2 characters, expected 64 hexadecimal digits" in short.err


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_the_doctor_writes_a_page_and_a_summary_for_the_owner_alone(hospital: Hospital) -> None:
    hospital.ingest()
    said = hospital.doctor()
    folder = hospital.home / "datasets" / "squares"
    assert said.status == 0
    assert "16 cases of 8 patients" in said.out
    assert (folder / "doctor.html").read_text().startswith("<!")
    json.loads((folder / "summary.json").read_text())
    for path in hospital.home.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path.name
    assert str(folder / "doctor.html") in said.err


def test_the_doctor_finds_a_planted_copy_and_none_before(hospital: Hospital) -> None:
    hospital.ingest()
    assert "duplicate" not in hospital.doctor().out
    plant_copy(hospital)
    hospital.ingest()
    assert "duplicate-across-patients" in hospital.doctor().out


def test_once_a_cohort_is_frozen_the_doctor_looks_across_its_splits(hospital: Hospital) -> None:
    plant_copy(hospital)
    hospital.ingest()
    accepted = settled(hospital)
    assert "across-splits" not in " ".join(accepted)
    for seed in range(20):
        hospital.freeze(*accepted, "--seed", seed)
        opened = SiteFolder.open(hospital.home)
        frozen = cohort_files.load(opened.dataset("squares").cohorts, opened.signing_key().verify_key)
        copies = Counter(one.source_sha256 for one in frozen.members)
        divided = {one.split for one in frozen.members if copies[one.source_sha256] > 1}
        if len(divided) > 1:
            break
    assert "duplicate-across-splits" in hospital.doctor().out


def test_a_data_set_that_is_not_there_is_told_with_those_that_are(hospital: Hospital) -> None:
    hospital.ingest()
    said = hospital.says("doctor", "--dataset", "circles")
    assert (said.status, said.err) == (
        1,
        "error: there is no data set 'circles' at this site\nhint:  there are: squares\n",
    )


def test_without_a_data_set_the_machine_is_looked_at_also_before_there_is_a_site(
    capsys: Capsys, tmp_path: Path, hospital: Hospital
) -> None:
    nowhere = json.loads(site(capsys, "doctor", "--json", "--site", tmp_path / "nowhere").out)
    here = json.loads(hospital.says("doctor", "--json").out)
    assert [one["name"] for one in nowhere] == [one["name"] for one in here]
    assert {one["verdict"] for one in here} <= {"ok", "warning", "error", "skipped"}
    assert not (tmp_path / "nowhere").exists()
    assert [one["event"] for one in hospital.events()] == ["init", "doctor-machine"]


def test_an_error_of_the_machine_is_status_1(hospital: Hospital) -> None:
    (hospital.home / "keys").chmod(0o755)
    said = hospital.says("doctor")
    assert said.status == 1
    assert "chmod -R go=" in said.out


def test_what_the_firewall_must_let_through_is_said_where_the_coordinator_is_not_reached(hospital: Hospital) -> None:
    # Port 1 of this machine: refused at once, and no name to look up.
    hospital.set('address = ""', 'address = "127.0.0.1:1"')
    said = hospital.says("doctor")
    assert said.status == 1
    assert "To send to those who run the firewall:" in said.out
    assert "127.0.0.1, TCP port 1" in said.out


# --- freeze ----------------------------------------------------------------------------------------------------------


def test_freezing_waits_for_the_doctor(hospital: Hospital) -> None:
    hospital.ingest()
    said = hospital.freeze()
    assert said.status == 1
    assert said.err == (
        "error: the doctor has not looked at this data set yet\nhint:  consilium-site doctor --dataset squares\n"
    )


def test_a_cohort_is_frozen_signed_and_unchanged_until_the_data_change(hospital: Hospital) -> None:
    hospital.ingest()
    said = hospital.freeze(*settled(hospital), "--json")
    told = json.loads(said.out)
    opened = SiteFolder.open(hospital.home)
    dataset = opened.dataset("squares")
    cohort = cohort_files.load(dataset.cohorts, opened.signing_key().verify_key)
    assert cohort.digest() == told["digest"]
    assert hashlib.sha256(cohort.canonical_bytes()).hexdigest() == told["digest"]
    assert sum(split["cases"] for split in told["splits"].values()) == 16
    assert sum(split["patients"] for split in told["splits"].values()) == 8
    with Archive.open(dataset.archive) as archive:
        assert drift(cohort, archive) == Drift(0, 0, 0)
    hospital.rewrite(label="dark")
    hospital.ingest()
    with Archive.open(dataset.archive) as archive:
        assert drift(cohort, archive) == Drift(0, 0, 8)


def test_frozen_twice_it_is_the_same_cohort_and_with_another_seed_another(hospital: Hospital) -> None:
    hospital.ingest()
    accepted = settled(hospital)
    digests = [
        json.loads(hospital.freeze(*accepted, "--json", *more).out)["digest"] for more in ((), (), ("--seed", "1"))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_after_a_change_the_doctor_must_look_again(hospital: Hospital) -> None:
    hospital.ingest()
    hospital.doctor()
    hospital.rewrite(label="dark")
    hospital.ingest()
    said = hospital.freeze()
    assert (said.status, said.err.splitlines()[0]) == (
        1,
        "error: the data set has changed since the doctor looked at it",
    )


def test_excluded_cases_are_left_out_and_counted(hospital: Hospital) -> None:
    hospital.ingest()
    accepted = settled(hospital)
    with Archive.open(SiteFolder.open(hospital.home).dataset("squares").archive) as archive:
        one = next(archive.records()).case_id
    told = json.loads(hospital.freeze(*accepted, "--exclude", one, "--json").out)
    assert sum(split["cases"] for split in told["splits"].values()) == 15
    assert told["excluded"] == {"by-name": 1}
    unknown = hospital.freeze(*accepted, "--exclude", "Mueller^Anna")
    assert unknown.status == 1
    assert "Mueller" not in unknown.err


def test_errors_of_the_doctor_are_left_out_or_accepted_or_stop_the_freeze(hospital: Hospital) -> None:
    plant_copy(hospital)
    hospital.ingest()
    accepted = settled(hospital)
    assert accepted, "a copy under two patients is an error"
    refused = hospital.freeze()
    assert refused.status == 1
    assert refused.err.startswith("error: the doctor reports errors that are neither left out nor accepted: ")
    assert accepted[1] in refused.err
    left_out = [word for code in accepted[1::2] for word in ("--exclude", code)]
    assert hospital.freeze(*left_out).status == 0
    assert hospital.freeze(*accepted).status == 0
    assert any(name.startswith("accepted.") for name in hospital.events()[-1]["counts"])


def test_shares_and_seed_may_come_from_a_plan(hospital: Hospital, tmp_path: Path) -> None:
    said = document()
    del said["scenario"]
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(said))
    plan = from_document(said)
    hospital.ingest()
    by_plan = hospital.freeze(*settled(hospital), "--plan", tmp_path / "plan.toml", "--json")
    shares = ("--train", plan.data.train_fraction, "--validation", plan.data.validation_fraction)
    by_hand = hospital.freeze(*settled(hospital), *shares, "--seed", plan.plan.seed, "--json")
    assert json.loads(by_plan.out) == json.loads(by_hand.out)
    both = hospital.freeze("--plan", tmp_path / "plan.toml", "--seed", 1)
    assert (both.status, both.err.splitlines()[0]) == (2, "error: --plan excludes --train, --validation and --seed")


def test_shares_that_leave_nobody_to_test_are_wrong_usage(hospital: Hospital) -> None:
    said = hospital.freeze("--train", 0.9, "--validation", 0.1)
    assert said.status == 2
    assert "must leave patients for testing" in said.err


@pytest.mark.parametrize("dimensions", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_hospital_of_dicom_series_goes_the_same_way(capsys: Capsys, tmp_path: Path, dimensions: int) -> None:
    """The truth is what the generator says: patients, and how many of its files are broken on purpose."""
    federation = hospitals(1, 3, patients=3, dimensions=dimensions)
    (truth,) = write_phantoms(tmp_path / "source", federation, 3).hospitals
    source, home = tmp_path / "source" / truth.name, tmp_path / "site"
    site(capsys, "init", home, "--name", "north")
    text = (home / "site.toml").read_text()
    (home / "site.toml").write_text(text.replace("quota = 0.2", "quota = 0.5").replace('"auto"', "1"))
    where = ("--dataset", "organ", "--site", home)
    ingested = site(capsys, "ingest", source, "--labels", source / "labels.csv", *where, "--workers", 1, "--json")
    assert ingested.status == 0, ingested.err
    told = json.loads(ingested.out)
    assert sum(told["quarantined"].values()) == truth.faults
    found = json.loads(site(capsys, "doctor", *where, "--json").out)
    assert found["patients"] == truth.patients
    accepted = [
        word for one in found["findings"] if one["severity"] == "error" for word in ("--accept-findings", one["code"])
    ]
    frozen = json.loads(site(capsys, "freeze", *where, *accepted, "--json").out)
    assert sum(split["cases"] for split in frozen["splits"].values()) == told["cases"]


# --- audit -----------------------------------------------------------------------------------------------------------


def test_each_command_that_did_something_is_one_line_and_one_that_was_refused_is_none(hospital: Hospital) -> None:
    hospital.freeze()
    hospital.ingest()
    hospital.freeze(*settled(hospital))
    hospital.says("ingest", hospital.source / "none", "--dataset", "squares")
    hospital.says("audit", "verify")
    assert [one["event"] for one in hospital.events()] == ["init", "ingest", "doctor", "freeze"]
    ingest, _, freeze = hospital.events()[1:]
    assert (ingest["dataset"], ingest["counts"]["cases"], ingest["counts"]["stored"]) == ("squares", 16, 16)
    assert freeze["digests"]["state"] == ingest["digests"]["state"]


def test_nothing_below_the_source_is_named_in_anything_that_is_said_or_logged(hospital: Hospital) -> None:
    source = hospital.source / "aachen"
    named = source.rename(source.with_name("Mueller^Anna"))
    for path in sorted(named.iterdir()):
        path.rename(path.with_name(f"Schmidt-{path.name}"))
    assert any("Mueller^Anna/Schmidt-" in name for name in contents(hospital.source)), "the control"
    (named / "Schmidt-broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    said = [hospital.says("ingest", named, "--dataset", "squares", "--workers", 1), hospital.doctor()]
    assert json.loads(hospital.says("ingest", named, "--dataset", "squares", "--json").out)["cases"]
    written = b"".join(contents(hospital.home).values())
    for word in (b"Mueller", b"Schmidt"):
        assert word not in written
        assert not any(word.decode() in one.out + one.err for one in said)


def test_an_untouched_log_is_verified_and_a_touched_one_names_its_first_bad_line(hospital: Hospital) -> None:
    hospital.ingest()
    good = hospital.says("audit", "verify")
    assert (good.status, good.out.splitlines()[0]) == (0, "2 lines, none changed, removed or moved")
    log = hospital.home / "audit.jsonl"
    log.write_text(log.read_text().replace('"stored":16', '"stored":15'))
    bad = hospital.says("audit", "verify")
    assert (bad.status, bad.out) == (1, "")
    assert bad.err.startswith("error: line 2 of the audit log was changed")


def test_a_broken_log_stops_what_could_not_be_recorded(hospital: Hospital) -> None:
    with (hospital.home / "audit.jsonl").open("a") as file:
        file.write("edited by hand\n")
    said = hospital.ingest()
    assert said.status == 1
    assert not (hospital.home / "datasets" / "squares").exists()


# --- site and plan ---------------------------------------------------------------------------------------------------


def test_the_site_is_named_by_option_or_environment_or_is_the_current_folder(
    capsys: Capsys, hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert site(capsys, "audit", "verify").err.startswith("error: . is no site folder")
    assert site(capsys, "audit", "verify", environ={"CONSILIUM_SITE": str(hospital.home)}).status == 0
    monkeypatch.chdir(hospital.home)
    assert site(capsys, "audit", "verify").status == 0


def test_a_key_that_others_can_read_stops_every_command_with_the_chmod_to_type(hospital: Hospital) -> None:
    key = hospital.home / "keys" / "identity.pem"
    key.chmod(0o644)
    for words in (("audit", "verify"), ("doctor", "--dataset", "squares"), ("freeze", "--dataset", "squares")):
        said = hospital.says(*words)
        assert (said.status, said.err.splitlines()[1]) == (1, f"hint:  chmod 600 {key}")


def test_check_prints_a_plan_s_digest(capsys: Capsys, tmp_path: Path) -> None:
    said = document()
    del said["scenario"]
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(said))
    assert site(capsys, "check", tmp_path / "plan.toml").out == from_document(said).digest() + "\n"
