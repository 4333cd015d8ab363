"""A site that encrypts: from PNG files to prepared cases, nothing on disk shows what the images show."""

import contextlib
import io
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_hospitals import read_rows, save_png, write_rows
from small_hospitals import Said, contents
from small_site import write_hospital

from client import cli
from client.data.archive.archive import Archive
from client.data.cohort import files
from client.data.prepared.cache import prepared_store
from client.data.prepared.site_data import load_site_data
from client.data.prepared.store import Store
from client.site_folder import STORE_KEY, SiteFolder
from shared.environment import settings
from shared.errors import SiteDataError
from shared.plan import Plan, from_document
from shared.tasks import task_for

EDGE, CELL = 48, 3
"""Pixels of an image, and of one square of its pattern: a thumbnail of 16 x 16 cells keeps every square."""
WINDOW = 12
"""Bytes in a row that count as seen: by chance a file of a megabyte holds a given dozen with probability 1e-23."""
SECRETS = ("identity.pem", "pseudonyms.secret")


def pattern(number: int) -> NDArray[np.uint8]:
    """Squares of random grey from black to white, shape (48, 48), different for each image."""
    squares = np.random.default_rng([number, 4711]).integers(0, 256, (EDGE // CELL,) * 2)
    squares.flat[:2] = 0, 255
    return np.kron(squares, np.ones((CELL, CELL))).astype(np.uint8)


def drawing(number: int) -> NDArray[np.uint8]:
    """The mask of image ``number``: foreground in every other row, so that it repeats nothing by chance."""
    mask = np.random.default_rng([number, 815]).integers(0, 2, (EDGE, EDGE)).astype(np.uint8)
    return mask * 255


def typed(*words: object, environ: Mapping[str, str] | None = None) -> Said:
    """``consilium-site WORDS`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, settings(os.environ) | dict(environ or {})),
        mock.patch.object(sys, "argv", ["consilium-site", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        cli.main()
    assert isinstance(left.value.code, int)
    return Said(left.value.code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Hospital:
    """A site, the words that ingest its source, and what the commands said so far."""

    home: Path
    words: tuple[object, ...]
    said: tuple[Said, ...] = ()

    def says(self, *words: object, environ: Mapping[str, str] | None = None) -> Said:
        return typed(*words, "--dataset", "squares", "--site", self.home, environ=environ)

    def ingest(self, environ: Mapping[str, str] | None = None) -> Said:
        return self.says("ingest", *self.words, environ=environ)

    @property
    def datasets(self) -> dict[str, bytes]:
        """Every file of the data sets."""
        return contents(self.home / "datasets")

    def archive(self) -> Archive:
        opened = SiteFolder.open(self.home)
        return Archive.open(opened.dataset("squares").archive, opened.store_key({}))


def write_source(folder: Path) -> tuple[object, ...]:
    """Sixteen PNG files with patterns, and their masks."""
    words = write_hospital(folder)
    for number, row in enumerate(read_rows(folder)):
        save_png(folder / row["image"], pattern(number))
        save_png(folder / row["mask"], drawing(number))
    return words


def settle(home: Path) -> None:
    """One process, and squares that look like text to somebody are let in."""
    text = (home / "site.toml").read_text().replace('workers = "auto"', "workers = 1")
    (home / "site.toml").write_text(text.replace('["declared", "secondary-capture", "text"]', "[]"))


def set_up(folder: Path, encryption: str, secrets: Path | None = None) -> Hospital:
    """A whole site, from init to freeze; ``secrets`` are another site's, so that both give the same names."""
    home = folder / encryption
    said = [typed("init", home, "--name", "north", "--encryption", encryption)]
    settle(home)
    if secrets:
        shutil.copy(secrets / "keys" / SECRETS[1], home / "keys" / SECRETS[1])
    hospital = Hospital(home, write_source(folder / f"source of {encryption}"))
    said += [hospital.ingest(), hospital.says("doctor", "--json")]
    said.append(hospital.says("freeze", "--train", 0.5))
    assert [one.status for one in said] == [0, 0, 0, 0], said
    return Hospital(home, hospital.words, tuple(said))


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Hospital]:
    folder = tmp_path_factory.mktemp("sites")
    plain = set_up(folder, "none")
    both = {"none": plain, "aes-gcm": set_up(folder, "aes-gcm", plain.home)}
    for hospital in both.values():
        prepared(hospital)
    return both


@pytest.fixture
def copied(sites: dict[str, Hospital], tmp_path: Path) -> Hospital:
    """The sealed site, to be spoilt."""
    home = tmp_path / "site"
    shutil.copytree(sites["aes-gcm"].home, home)
    return Hospital(home, sites["aes-gcm"].words)


def plan() -> Plan:
    return from_document(
        {
            "plan": {"name": "squares", "task": "segmentation", "rounds": 1},
            "data": {"modality": "other", "classes": ["background", "square"], "train_fraction": 0.5},
            "preprocessing": {"size": [EDGE, EDGE]},
            "model": {"name": "unet"},
            "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
            "privacy": {"unit": "none"},
        }
    )


def prepared(hospital: Hospital) -> Store:
    """The store that training reads, in its place below the data set."""
    opened = SiteFolder.open(hospital.home)
    dataset = opened.dataset("squares")
    cohort = files.load(dataset.cohorts, opened.signing_key().verify_key)
    with hospital.archive() as archive:
        return prepared_store(dataset.prepared, cohort, archive, plan(), task_for(plan()))


# --- what can be read ------------------------------------------------------------------------------------------------


def as_stored(values: NDArray[np.uint8]) -> Iterator[bytes]:
    """Rows of an image as somebody may have written them: in bytes, in wider numbers, as digits."""
    for row in values:
        for kind in ("u1", "<u2", "<i2", "<f4", ">u2"):
            yield row.astype(kind).tobytes()
        yield row.tobytes().hex().encode()


def thumbnail(number: int) -> NDArray[np.uint8]:
    """A pattern at the size at which a doctor compares images: one pixel a square."""
    return pattern(number)[::CELL, ::CELL]


def seen_in(found: Mapping[str, bytes], images: Callable[[int], NDArray[np.uint8]]) -> set[str]:
    """Names of the files that show a dozen bytes of any row of any image."""
    pieces = {
        row[start : start + WINDOW]
        for number in range(16)
        for row in as_stored(images(number))
        for start in (0, len(row) // 2)
    }
    # A row of one grey is found anywhere.
    telling = [piece for piece in pieces if len(set(piece)) > 3]
    return {name for name, content in found.items() if any(piece in content for piece in telling)}


def test_the_search_finds_every_image_where_nothing_is_sealed(sites: dict[str, Hospital]) -> None:
    found = seen_in(sites["none"].datasets, pattern)
    assert any(name.startswith("squares/archive/segments/") for name in found)
    shown = seen_in({str(number): pattern(number).tobytes() for number in range(16)}, pattern)
    assert len(shown) == 16, "the control of the control"


def test_no_row_of_an_image_is_readable_in_any_file_of_a_sealed_data_set(sites: dict[str, Hospital]) -> None:
    held = sites["aes-gcm"].datasets
    assert {Path(name).parts[1] for name in held} >= {"archive", "prepared", "cohorts", "doctor.html", "summary.json"}
    assert seen_in(held, pattern) == set()


def test_no_thumbnail_lies_beside_the_sealed_images(sites: dict[str, Hospital]) -> None:
    """Sixteen by sixteen pixels are the whole of a small image, and a face of a large one."""
    assert seen_in(sites["none"].datasets, thumbnail) == {"squares/archive/catalogue.sqlite"}, "the control"
    assert seen_in(sites["aes-gcm"].datasets, thumbnail) == set()


def test_no_mask_is_readable_either(sites: dict[str, Hospital]) -> None:
    def mask(number: int) -> NDArray[np.uint8]:
        return drawing(number) // 255

    def visible(hospital: Hospital) -> set[str]:
        rows = [row.tobytes() for number in range(16) for row in mask(number)]
        return {
            Path(name).parts[1] for name, content in hospital.datasets.items() if any(row in content for row in rows)
        }

    assert visible(sites["none"]) == {"archive", "prepared"}
    assert visible(sites["aes-gcm"]) == set()


def test_prepared_cases_are_the_same_and_readable_on_disk_only_where_nothing_is_sealed(
    sites: dict[str, Hospital],
) -> None:
    plain, sealed = (prepared(sites[kind]) for kind in ("none", "aes-gcm"))
    assert len(plain) == len(sealed) == 16
    for position in range(16):
        one, other = plain.case(position), sealed.case(position)
        np.testing.assert_array_equal(one.voxels, other.voxels)
        np.testing.assert_array_equal(one.mask, other.mask)
        piece = one.voxels.tobytes()[: 4 * EDGE]
        assert any(piece in content for content in contents(plain.folder).values())
        assert not any(piece in content for content in contents(sealed.folder).values())


def test_a_prepared_store_without_its_key_is_no_data(sites: dict[str, Hospital]) -> None:
    store = prepared(sites["aes-gcm"])
    for key in (None, bytes(32)):
        with pytest.raises(SiteDataError):
            Store.open(store.folder, seal=key)


def test_a_sealed_site_finds_freezes_and_divides_what_a_plain_one_does(sites: dict[str, Hospital]) -> None:
    """Both have one secret, so that names are equal; only how images lie on disk differs."""
    told = [json.loads((sites[kind].home / "datasets/squares/summary.json").read_text()) for kind in sites]
    assert told[0] == told[1]
    cohorts = []
    for hospital in sites.values():
        opened = SiteFolder.open(hospital.home)
        cohorts.append(files.load(opened.dataset("squares").cohorts, opened.signing_key().verify_key))
    assert cohorts[0].digest() == cohorts[1].digest()
    data = [load_site_data(prepared(hospital), cohorts[0], plan()) for hospital in sites.values()]
    assert [case.case_id for case in data[0].train] == [case.case_id for case in data[1].train] != []


def test_images_come_back_as_they_were(sites: dict[str, Hospital]) -> None:
    with sites["aes-gcm"].archive() as archive:
        back = sorted(archive.image(record).voxels.astype(np.uint8).tobytes() for record in archive.records())
    assert back == sorted(pattern(number).tobytes() for number in range(16))


# --- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_is_in_its_file_alone_and_never_said(sites: dict[str, Hospital]) -> None:
    hospital = sites["aes-gcm"]
    key = SiteFolder.open(hospital.home).store_key({})
    assert key is not None
    holding = {
        name for name, content in contents(hospital.home).items() if key in content or key.hex().encode() in content
    }
    assert holding == {"keys/store.key"}
    assert (hospital.home / "keys" / "store.key").stat().st_mode & 0o777 == 0o600
    assert not any(key.hex() in one.out + one.err for one in hospital.said)


@pytest.mark.parametrize("command", ["ingest", "doctor", "freeze"])
def test_a_wrong_key_is_refused_in_one_sentence_and_nothing_is_touched(copied: Hospital, command: str) -> None:
    before = copied.datasets
    wrong = {STORE_KEY: "ab" * 32}
    said = copied.ingest(wrong) if command == "ingest" else copied.says(command, environ=wrong)
    error, hint = said.err.splitlines()[-2:]
    assert (said.status, said.out) == (1, "")
    assert error.startswith("error: ")
    assert "key" in error
    assert hint.startswith("hint: ")
    assert "Traceback" not in said.err
    assert "ab" * 8 not in said.err
    after = copied.datasets
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {Path(name).name for name in changed} <= {"catalogue.sqlite-wal", "catalogue.sqlite-shm"}


def test_no_key_is_refused_too_and_the_file_s_own_key_goes_on(copied: Hospital) -> None:
    path = copied.home / "keys" / "store.key"
    kept = path.rename(path.with_name("elsewhere.key"))
    said = copied.says("doctor")
    assert said.status == 1
    assert said.err.splitlines()[-2].startswith("error: images are to be encrypted, and there is neither")
    kept.rename(path)
    assert copied.says("doctor").status == 0


def test_encryption_that_is_switched_off_later_is_refused(copied: Hospital) -> None:
    """Else new images would lie in the open beside sealed ones."""
    text = (copied.home / "site.toml").read_text()
    (copied.home / "site.toml").write_text(text.replace('encryption = "aes-gcm"', 'encryption = "none"'))
    for said in (copied.ingest(), copied.says("doctor")):
        assert said.status == 1
        assert said.err.splitlines()[-2].startswith("error: ")
    assert seen_in(copied.datasets, pattern) == set()


def test_a_key_from_the_environment_stands_in_for_the_file_in_every_command(copied: Hospital) -> None:
    path = copied.home / "keys" / "store.key"
    environ = {STORE_KEY: path.read_text().strip()}
    path.unlink()
    assert json.loads(copied.says("ingest", *copied.words, "--json", environ=environ).out)["ingest"]["unchanged"] == 16
    doctor = copied.says("doctor", "--json", environ=environ)
    assert doctor.status == 0
    assert copied.says("freeze", "--train", 0.6, environ=environ).status == 0
    assert environ[STORE_KEY] not in doctor.out + doctor.err
    assert not any(environ[STORE_KEY].encode() in content for content in contents(copied.home).values())


def test_images_that_come_later_are_sealed_with_the_same_key(copied: Hospital, tmp_path: Path) -> None:
    words = write_source(tmp_path)
    rows = read_rows(tmp_path)
    save_png(tmp_path / "aachen" / "new.png", pattern(99))
    write_rows(tmp_path, [*rows, rows[0] | {"image": "aachen/new.png"}])
    told = json.loads(copied.says("ingest", *words, "--json").out)["ingest"]
    assert (told["stored"], told["replaced"]) == (1, 16), "the old ones lie in another folder now"
    assert seen_in(copied.datasets, lambda number: pattern(number if number else 99)) == set()
    with copied.archive() as archive:
        assert len(archive) == 17
        assert (
            sum(archive.image(one).voxels.tobytes() == pattern(99).astype("f4").tobytes() for one in archive.records())
            == 1
        )


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_changed_bit_of_a_sealed_segment_is_damage_that_the_doctor_reports(copied: Hospital, place: float) -> None:
    folder = copied.home / "datasets" / "squares" / "archive" / "segments"
    segment = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(segment.read_bytes())
    content[int(place * len(content))] ^= 1
    segment.write_bytes(bytes(content))
    (folder.parent.parent / "diagnosis.json").unlink()
    forget_measurements(folder.parent / "catalogue.sqlite")
    said = copied.says("doctor", "--json")
    (found,) = [one for one in json.loads(said.out)["findings"] if one["code"] == "archive-damaged"]
    assert 0 < len(found["cases"]) <= 16
    assert copied.says("freeze").err.splitlines()[-2].startswith("error: the doctor reports errors")


def forget_measurements(catalogue: Path) -> None:
    """As when another version of the doctor comes, which looks at every image again."""
    with contextlib.closing(sqlite3.connect(catalogue)) as database:
        database.execute("delete from measurements")
        database.commit()
