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
from client.data.ingest.leaks import identifying_values, scan
from client.data.source.files import SourceFile, walk
from client.site_folder import SiteFolder

DATA = Path(os.environ.get("CONSILIUM_DATA") or Path(__file__).parents[3] / "shared" / "data")
SOURCES = (DATA / "dicom_corpus" / "files", DATA / "dicom_corpus" / "derived_bad")
FILES = 451
ENDS = {"image", "mask", "copy", "not-an-image", "quarantined"}

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not beside the project (CONSILIUM_DATA)"),
]


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


def test_the_twelve_bad_files_end_as_expected(corpus: tuple[Path, list[Said]]) -> None:
    home, _ = corpus
    salt = SiteFolder.open(home).salt()
    with Archive.open(SiteFolder.open(home).dataset("corpus").archive) as archive:
        uses = {file.name: file.use for file in archive.files()}
    with (DATA / "dicom_corpus" / "derived_bad.csv").open(newline="") as table:
        expected = {Path(row["file"]).name: row["expect"] for row in csv.DictReader(table)}
    assert len(expected) == 12
    seen = names(salt)
    for name, expect in expected.items():
        use = uses[seen[name]]
        if expect == "accept":
            # One image in three copies and with trailing bytes: the same instance, with other bytes in one of them.
            assert use in {"image", "copy", "quarantined"}, name
        else:
            assert use in {"quarantined", "not-an-image", "image"} if "degraded" in expect else "quarantined", name


def names(salt: Salt) -> dict[str, str]:
    """Salted names of the derived files."""
    found = {file.name: file.seen for file in walk(SOURCES, salt) if isinstance(file, SourceFile)}
    return {name: found[name] for name in found if (SOURCES[1] / name).exists()}


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
