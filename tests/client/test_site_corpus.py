"""A whole site over 451 real DICOM files, good, odd and bad, by the commands that hospital IT types."""

import csv
import json
import logging
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from small_hospitals import Said

from client.data.archive.archive import Archive
from client.data.case_files import Salt
from client.data.ingest.ingest import ingest
from client.data.ingest.leaks import identifying_values, scan
from client.data.ingest.reading import Rules
from client.data.source.discover import discover
from client.data.source.files import SourceFile, walk
from client.data.source.found import Wanted
from client.site_folder import SiteFolder

DATA = Path(os.environ.get("CONSILIUM_DATA") or Path(__file__).parents[3] / "shared" / "data")
SOURCES = (DATA / "dicom_corpus" / "files", DATA / "dicom_corpus" / "derived_bad")
FILES = 451
SALT = Salt("north", b"a secret of thirty-two bytes ...")
ENDS = {"image", "mask", "copy", "not-an-image", "quarantined"}

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not beside the project (CONSILIUM_DATA)"),
]


def derived() -> list[tuple[str, str]]:
    """The twelve bad files with what is expected of each; none where the corpus is not there."""
    path = DATA / "dicom_corpus" / "derived_bad.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as table:
        return [(Path(row["file"]).name, row["expect"]) for row in csv.DictReader(table)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Said]]:
    """A site after two ingests, doctor and freeze, with what the commands said."""
    home = tmp_path_factory.mktemp("corpus") / "site"
    return home, list(run(home))


def run(home: Path) -> Iterator[Said]:
    words = ("--dataset", "corpus", "--site", home)
    yield command("init", home, "--name", "north")
    settings = (home / "site.toml").read_text()
    # Everything may come in that can be read: what is refused for burned-in identifiers is tested elsewhere.
    settings = settings.replace('refuse = ["declared", "secondary-capture", "text"]', "refuse = []")
    (home / "site.toml").write_text(settings.replace("quota = 0.2", "quota = 0.9"))
    yield command("ingest", *SOURCES, *words, "--workers", 2, "--json")
    yield command("ingest", *SOURCES, *words, "--workers", 1, "--json")
    yield command("doctor", *words)
    yield command("freeze", *words, *accepted(home))


def accepted(home: Path) -> list[str]:
    """``--accept-findings`` for each error of the doctor."""
    diagnosis = json.loads((home / "datasets" / "corpus" / "diagnosis.json").read_text())
    errors = {one["code"] for one in diagnosis["diagnosis"]["findings"] if one["severity"] == "error"}
    return [word for code in sorted(errors) for word in ("--accept-findings", code)]


def command(*words: object) -> Said:
    """``consilium-site`` in a process of its own: its log is what a terminal would show."""
    script = Path(sys.executable).with_name("consilium-site")
    done = subprocess.run([script, *map(str, words)], check=False, capture_output=True, text=True, timeout=300)
    return Said(done.returncode, done.stdout, done.stderr)


def test_there_are_twelve_bad_files() -> None:
    assert len(derived()) == 12


def test_every_command_ends_well_and_without_a_traceback(corpus: tuple[Path, list[Said]]) -> None:
    for said in corpus[1]:
        assert said.status == 0, said.err
        assert "Traceback" not in said.err + said.out


def test_every_file_ends_stored_or_not_an_image_or_quarantined_with_a_reason(corpus: tuple[Path, list[Said]]) -> None:
    home, (_, first, second, *_) = corpus
    told = json.loads(first.out)["ingest"]
    assert sum(told["files"].values()) == FILES
    assert set(told["files"]) == ENDS
    with Archive.open(SiteFolder.open(home).dataset("corpus").archive) as archive:
        files = list(archive.files())
        stored = len(archive)
        reasons = {one.code for one in archive.quarantined()}
    assert Counter(file.use for file in files) == told["files"]
    assert all((file.use == "quarantined") <= bool(file.code) for file in files)
    assert {file.code for file in files if file.use == "quarantined"} == reasons - {"mask-without-image"}
    assert stored == told["stored"] > 100
    again = json.loads(second.out)["ingest"]
    assert (again["stored"], again["replaced"], again["unchanged"]) == (0, 0, stored)
    assert again["files"] == told["files"]


with_table = pytest.mark.parametrize(("name", "expected"), derived(), ids=lambda value: value.split(",")[0])


@with_table
def test_a_bad_file_by_itself_ends_as_expected(name: str, expected: str, tmp_path: Path) -> None:
    """By itself: beside its original, a changed copy under the same UID makes both of them doubtful."""
    found = discover(Wanted((SOURCES[1] / name,)), SALT)
    with Archive.open_or_create(tmp_path / "archive") as archive:
        intake = ingest(archive, found, Rules(refuse=frozenset()), SALT)
        stored = len(archive)
    ends = {"image": stored, "quarantined": sum(intake.quarantined.values())}
    assert sum(ends.values()) == 1
    if expected == "accept":
        assert ends["image"] == 1
    elif "degraded" not in expected:
        assert ends["quarantined"] == 1
    assert dict(intake.files) == {"image" if stored else "quarantined": 1}


def test_a_copy_is_passed_over_and_a_changed_copy_makes_all_of_them_doubtful(corpus: tuple[Path, list[Said]]) -> None:
    """The original and two exact copies of it share their UID with one that has other bytes behind its end."""
    home, _ = corpus
    site = SiteFolder.open(home)
    with Archive.open(site.dataset("corpus").archive) as archive:
        ends = {file.name: (file.use, file.code) for file in archive.files()}
    seen = {file.name: file.seen for file in walk(SOURCES, site.salt()) if isinstance(file, SourceFile)}
    doubtful, copy = ("quarantined", "duplicate-instance"), ("copy", "")
    equal = ("src__pydicom__data__test_files__CT_small.dcm", "no_extension_valid", "IM00001.DCM")
    assert ends[seen["trailing_garbage.dcm"]] == doubtful
    # Which of the equal files counts as the copies of which follows from salted names.
    assert {ends[seen[name]] for name in equal} == {doubtful, copy}


def values() -> set[str]:
    """Every identifying value of every header of the corpus, as the library reads it."""
    found: set[str] = set()
    logging.getLogger("pydicom").disabled = True
    for folder in SOURCES:
        for path in folder.rglob("*"):
            if path.is_file():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        found |= identifying_values(dcmread(path, force=True, stop_before_pixels=True))
                    except Exception:  # noqa: BLE001, S112 - what cannot be read has no header
                        continue
    logging.getLogger("pydicom").disabled = False
    return found


OURS = {"Modality"}
"""A word that stands as a value in a test file of the corpus and as a name in our own files."""


def test_no_identifying_value_is_in_the_site_folder_or_on_the_terminal(corpus: tuple[Path, list[Said]]) -> None:
    home, said = corpus
    (home / "terminal.log").write_text("".join(one.out + one.err for one in said))
    # Short values occur by chance in a hundred thousand salted names and in pixels; a name of a person is never one.
    telling = {value for value in values() if len(value) > 7 and not value.isdigit()} - OURS
    assert len(telling) > 500
    assert scan(home, telling) == []
    planted = max(telling, key=len)
    (home / "datasets" / "corpus" / "planted.log").write_text(f"could not read the image of {planted}")
    assert [path.name for path, _ in scan(home, telling)] == ["planted.log"]
    (home / "datasets" / "corpus" / "planted.log").unlink()
