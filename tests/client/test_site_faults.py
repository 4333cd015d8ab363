"""Whatever befalls a site's commands (killed, no disk, no source, two at once), the next one ends where it would have.

The undisturbed run of the same commands, in a site with the same secrets, is the oracle throughout.
"""

import contextlib
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_hospitals import read_rows, save_png, write_rows
from small_hospitals import Said, contents
from small_site import site, write_hospital

from client.data.archive.archive import Archive
from client.data.archive.record import Record
from client.data.cohort import files
from client.data.cohort.drift import UNCHANGED, Drift, drift, require_unchanged
from client.data.cohort.manifest import Cohort, SplitRule
from client.data.dataset import Dataset
from client.data.prepared.cache import prepared_store
from client.governance import audit
from client.site_folder import SiteFolder
from shared.crypto.signing import SigningKey
from shared.errors import SiteDataError
from shared.plan import from_document
from shared.tasks import task_for

PATIENTS, IMAGES = 60, 120
SCRIPT = Path(sys.executable).with_name("consilium-site")
COMMANDS = ("ingest", "doctor", "freeze")


@dataclass(frozen=True)
class World:
    """A site folder that has just been made, a source, what undisturbed commands make of them, and how long it takes.

    Attributes:
        blank: the new site; copies of it share its secrets.
        source: never changed but where a test takes it away for a moment.
        words: what ``ingest`` takes.
        done: site folder after each command, by its name.
        seconds: how long each command took.
        start_s: how long a command takes until it begins to work.
    """

    blank: Path
    source: Path
    words: tuple[object, ...]
    done: dict[str, Path]
    seconds: dict[str, float]
    start_s: float

    def line(self, command: str, home: Path) -> list[str]:
        """The command as it is typed."""
        words = self.words if command == "ingest" else ()
        return [str(word) for word in (SCRIPT, command, *words, "--dataset", "squares", "--site", home)]

    def start(self, command: str, home: Path, before: Callable[[], None] | None = None) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.line(command, home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=before,  # noqa: PLW1509 - no threads here, and limits can be set in the child alone
        )

    def run(self, command: str, home: Path, before: Callable[[], None] | None = None) -> Said:
        process = self.start(command, home, before)
        out, err = process.communicate(timeout=120)
        return Said(process.returncode, out, err)

    def up_to(self, command: str, folder: Path) -> Path:
        """A site in which all commands before ``command`` have run."""
        place = COMMANDS.index(command)
        home = folder / "site"
        shutil.copytree(self.done[COMMANDS[place - 1]] if place else self.blank, home)
        return home


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    words = write_hospital(folder / "source", PATIENTS)
    subprocess.run([SCRIPT, "init", folder / "blank", "--name", "north"], check=True, capture_output=True)
    settings = folder / "blank" / "site.toml"
    settings.write_text(settings.read_text().replace('workers = "auto"', "workers = 1"))
    world = World(folder / "blank", folder / "source", words, {}, {}, 0.0)
    for place, command in enumerate(COMMANDS):
        home = folder / command
        shutil.copytree(world.done[COMMANDS[place - 1]] if place else world.blank, home)
        began = time.monotonic()
        said = world.run(command, home)
        assert said.status == 0, said.err
        world.seconds[command], world.done[command] = time.monotonic() - began, home
    began = time.monotonic()
    refused = subprocess.run([SCRIPT, "doctor", "--dataset", "no", "--site", folder], check=False, capture_output=True)
    assert refused.returncode == 1
    return replace(world, start_s=time.monotonic() - began)


def rows(home: Path) -> list[Record]:
    """All that is stored, each case checked against its digest, but for where it lies."""
    with Archive.open(home / "datasets" / "squares" / "archive") as archive:
        for record in archive.records():
            archive.verify(record)
        return [replace(one, location=replace(one.location, segment=0, offset=0)) for one in archive.records()]


def stored(home: Path) -> int:
    """How many cases there are by now; 0 while there is no archive yet."""
    folder = home / "datasets" / "squares" / "archive"
    if not (folder / "catalogue.sqlite").exists():
        return 0
    with contextlib.suppress(SiteDataError), Archive.open(folder) as archive:
        return len(archive)
    return 0


def cohort_of(home: Path) -> Cohort:
    opened = SiteFolder.open(home)
    return files.load(opened.dataset("squares").cohorts, opened.signing_key().verify_key)


def log_of(home: Path) -> list[str]:
    """The events of an audit log, every line and signature of which is checked."""
    log = SiteFolder.open(home).audit
    lines = audit.verify(log.path, log.signer.verify_key).lines
    events = [json.loads(line)["event"] for line in log.path.read_text().splitlines()]
    assert len(events) == lines
    return events


def assert_as_undisturbed(world: World, command: str, home: Path) -> None:
    """The site is what one is in which nothing happened; the audit log, which tells what did, is only checked."""
    reference = world.done[command]
    assert rows(home) == rows(reference)
    names = {"doctor": ("summary.json", "diagnosis.json", "doctor.html"), "ingest": ("dataset.toml",)}
    for name in names.get(command, ()):
        held = [folder / "datasets" / "squares" / name for folder in (home, reference)]
        assert held[0].read_bytes() == held[1].read_bytes(), name
    if command == "freeze":
        assert cohort_of(home) == cohort_of(reference)
    assert log_of(home)[-1] == command
    assert not [name for name in contents(home) if name.endswith(".pending")]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in home.rglob("*")} == {0}


def assert_one_sentence(said: Said) -> None:
    """Refused as a command refuses: an error, a hint, and nothing that only a programmer can read."""
    assert said.status == 1
    error, hint = said.err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert hint.startswith("hint:  ")
    assert "Traceback" not in said.err + said.out


# --- killed ----------------------------------------------------------------------------------------------------------


def kill_after(process: "subprocess.Popen[str]", seconds: float) -> None:
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_a_random_moment_a_command_ends_as_if_undisturbed_when_it_is_run_again(
    world: World, tmp_path: Path, command: str, seed: int
) -> None:
    home = world.up_to(command, tmp_path)
    moments = random.Random(f"{command} {seed}")
    for _ in range(2):
        last = max(world.seconds[command], world.start_s)
        kill_after(world.start(command, home), moments.uniform(0.7 * world.start_s, last))
        log_of(home)
    said = world.run(command, home)
    assert said.status == 0, said.err
    assert_as_undisturbed(world, command, home)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_killed_while_it_stores_ingest_keeps_what_it_had_and_reads_the_rest(
    world: World, tmp_path: Path, share: float
) -> None:
    home = world.up_to("ingest", tmp_path)
    process = world.start("ingest", home)
    deadline = time.monotonic() + 60
    while stored(home) <= share * IMAGES and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    kill_after(process, 0)
    left = {record.case_id: record for record in rows(home)}
    assert len(left) > share * IMAGES
    assert left.items() <= {record.case_id: record for record in rows(world.done["ingest"])}.items()
    said = subprocess.run([*world.line("ingest", home), "--json"], capture_output=True, text=True, check=True)
    told = json.loads(said.stdout)["ingest"]
    assert (told["unchanged"], told["stored"]) == (len(left), IMAGES - len(left))
    assert_as_undisturbed(world, "ingest", home)


@pytest.mark.slow
def test_a_line_that_was_cut_off_while_it_was_written_is_removed_and_said(world: World, tmp_path: Path) -> None:
    home = world.up_to("doctor", tmp_path)
    with (home / "audit.jsonl").open("ab") as log:
        log.write(b'{"at":"2025-03-01T00:00:00+00:00","counts":{"ca')
    assert world.run("doctor", home).status == 0
    assert log_of(home) == ["init", "ingest", audit.REMOVED, "doctor"]
    assert_as_undisturbed(world, "doctor", home)


# --- no source, no room, no rights -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_source_that_is_unmounted_meanwhile_costs_what_was_not_read_and_comes_back(
    world: World, tmp_path: Path
) -> None:
    home = world.up_to("ingest", tmp_path)
    source = world.source / "aachen"
    process = world.start("ingest", home)
    while stored(home) == 0 and process.poll() is None:
        time.sleep(0.001)
    away = source.rename(source.with_name("away"))
    try:
        out, err = process.communicate(timeout=120)
    finally:
        away.rename(source)
    assert process.returncode in {0, 1}
    assert "Traceback" not in err
    assert out
    known = {record.case_id: record for record in rows(world.done["ingest"])}
    assert all(known[record.case_id] == record for record in rows(home))
    assert log_of(home) == ["init", "ingest"]
    assert world.run("ingest", home).status == 0
    assert_as_undisturbed(world, "ingest", home)


@pytest.mark.slow
def test_a_source_that_is_away_before_it_starts_is_refused_and_takes_nothing_out(world: World, tmp_path: Path) -> None:
    home = world.up_to("doctor", tmp_path)
    before = contents(home)
    source = world.source / "aachen"
    away = source.rename(source.with_name("away"))
    try:
        said = world.run("ingest", home)
    finally:
        away.rename(source)
    assert_one_sentence(said)
    assert "source 1 of 1 is not there" in said.err
    assert contents(home) == before
    assert_as_undisturbed(world, "ingest", home)


def limited(size: int) -> Callable[[], None]:
    """In the child: no file may grow beyond ``size`` bytes, which the kernel says as it says a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "size"),
    [("ingest", 500), ("ingest", 20_000), ("ingest", 60_000), ("doctor", 2_000), ("doctor", 30_000), ("freeze", 4_000)],
)
def test_a_full_disk_is_one_sentence_and_with_room_again_the_command_completes(
    world: World, tmp_path: Path, command: str, size: int
) -> None:
    home = world.up_to(command, tmp_path)
    events = log_of(home)
    said = world.run(command, home, limited(size))
    assert_one_sentence(said)
    assert log_of(home) == events, "what was not done is not said to be"
    said = world.run(command, home)
    assert said.status == 0, said.err
    assert_as_undisturbed(world, command, home)


_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


def without_override() -> None:
    """In the child: also the superuser may write only where the mode of a folder says so."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
        raise OSError("this machine does not let go of capabilities")


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below ``folder`` can be changed, made or removed."""
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & 0o500)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_site_folder_that_cannot_be_written_is_one_sentence_and_stays_as_it_is(
    world: World, tmp_path: Path, command: str
) -> None:
    home = world.up_to(command, tmp_path)
    before = contents(home)
    try:
        subprocess.run(["true"], check=True, preexec_fn=without_override)
    except subprocess.SubprocessError:
        pytest.skip("this superuser may not give up the right to write everywhere")
    with read_only(home):
        said = world.run(command, home, without_override)
    assert_one_sentence(said)
    assert contents(home) == before
    assert world.run(command, home).status == 0
    assert_as_undisturbed(world, command, home)


# --- two at once -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ingest", "doctor", "freeze"])
def test_two_at_once_end_as_one_and_whoever_is_refused_is_told(world: World, tmp_path: Path, command: str) -> None:
    home = world.up_to(command, tmp_path)
    both = [world.start(command, home) for _ in range(2)]
    said = [Said(one.returncode, *texts) for one, texts in [(one, one.communicate(timeout=120)) for one in both]]
    done = [one for one in said if one.status == 0]
    assert done, said[0].err + said[1].err
    for one in said:
        if one.status:
            assert_one_sentence(one)
            assert "another process" in one.err
    assert log_of(home).count(command) == len(done)
    assert_as_undisturbed(world, command, home)


def test_a_file_that_two_commands_replace_at_once_is_always_that_of_one_of_them(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path)
    wholes = [letter * 100_000 for letter in (b"a", b"b")]
    dataset.write(dataset.summary, wholes[0])
    with ThreadPoolExecutor(2) as pool:
        for _ in range(200):
            both = [pool.submit(dataset.write, dataset.summary, whole) for whole in wholes]
            while not all(one.done() for one in both):
                assert dataset.summary.read_bytes() in wholes
            assert [one.result() for one in both] == [None, None]


def test_two_freezes_at_once_are_both_kept_and_one_is_current(tmp_path: Path) -> None:
    key, rule = SigningKey.generate(), SplitRule(7, 0.6, 0.2)
    cohorts = [Cohort(name, "squares", rule, ()) for name in ("north", "south")]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(200):
            digests = [one.result() for one in [pool.submit(files.save, cohort, tmp_path, key) for cohort in cohorts]]
            assert [files.load(tmp_path, key.verify_key, digest) for digest in digests] == cohorts
            assert files.load(tmp_path, key.verify_key) in cohorts


@pytest.mark.slow
def test_while_another_process_adds_cases_an_ingest_is_refused_and_the_doctor_works(
    world: World, tmp_path: Path
) -> None:
    home = world.up_to("doctor", tmp_path)
    with Archive.open_or_create(home / "datasets" / "squares" / "archive"):
        assert_one_sentence(world.run("ingest", home))
        assert world.run("doctor", home).status == 0
    assert world.run("ingest", home).status == 0
    assert log_of(home) == ["init", "ingest", "doctor", "ingest"]


@pytest.mark.slow
def test_the_source_is_as_it_was_after_all_of_this(world: World, tmp_path: Path) -> None:
    """The last test over this source: what one command of many had touched would show."""
    write_hospital(tmp_path, PATIENTS)
    assert contents(world.source) == contents(tmp_path)


# --- drift -----------------------------------------------------------------------------------------------------------

Capsys = pytest.CaptureFixture[str]


def noise(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (16, 16), np.uint8)


class Hospital:
    """A small site whose cohort is frozen, and a source that changes afterwards; commands run in this process."""

    def __init__(self, capsys: Capsys, folder: Path) -> None:
        self.capsys, self.home, self.source = capsys, folder / "site", folder / "source"
        self.words = write_hospital(self.source)
        assert site(capsys, "init", self.home, "--name", "north").status == 0
        self.does("ingest")
        self.does("doctor")
        self.does("freeze")

    def does(self, command: str, *more: object) -> None:
        words = (*self.words, "--workers", 1) if command == "ingest" else ()
        said = site(self.capsys, command, *words, *more, "--dataset", "squares", "--site", self.home)
        assert said.status == 0, said.err

    def add(self, number: int) -> None:
        """A new image, with a mask that is there already."""
        table = read_rows(self.source)
        save_png(self.source / "aachen" / f"new-{number}.png", noise(40 + number))
        write_rows(self.source, [*table, table[number] | {"image": f"aachen/new-{number}.png"}])

    def change(self, number: int) -> None:
        """Another picture under the name of a stored one."""
        save_png(self.source / read_rows(self.source)[number]["image"], noise(140 + number))

    def withdraw(self, number: int) -> None:
        """A second row that contradicts the first: nobody knows any more what the image shows."""
        table = read_rows(self.source)
        other = {"bright": "dark", "dark": "bright"}[table[number]["label"]]
        write_rows(self.source, [*table, table[number] | {"label": other}])

    def drift(self) -> Drift:
        with Archive.open(self.home / "datasets" / "squares" / "archive") as archive:
            return drift(cohort_of(self.home), archive)

    def refusal(self) -> SiteDataError:
        """What training would be told, by the check itself and by the store that it asks for."""
        plan = from_document(
            {
                "plan": {"name": "squares", "task": "classification", "rounds": 1},
                "data": {"modality": "other", "classes": ["dark", "bright"]},
                "preprocessing": {"size": [16, 16]},
                "model": {"name": "cnn"},
                "training": {"steps": 1, "patients_per_step": 1, "learning_rate": 0.1},
                "privacy": {"unit": "none"},
            }
        )
        dataset = SiteFolder.open(self.home).dataset("squares")
        with Archive.open(dataset.archive) as archive:
            with pytest.raises(SiteDataError) as caught:
                require_unchanged(cohort_of(self.home), archive)
            with pytest.raises(SiteDataError) as store:
                prepared_store(dataset.prepared, cohort_of(self.home), archive, plan, task_for(plan))
        assert str(store.value) == str(caught.value)
        assert not dataset.prepared.exists()
        return caught.value


@pytest.fixture
def hospital(capsys: Capsys, tmp_path: Path) -> Hospital:
    return Hospital(capsys, tmp_path)


@pytest.mark.parametrize(
    ("added", "removed", "altered"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (3, 0, 2), (0, 4, 1), (2, 2, 0)]
)
def test_what_an_ingest_changed_since_the_freeze_is_counted_and_refused(
    hospital: Hospital, added: int, removed: int, altered: int
) -> None:
    assert hospital.drift() == UNCHANGED
    for number in range(added):
        hospital.add(number)
    for number in range(4, 4 + altered):
        hospital.change(number)
    for number in range(10, 10 + removed):
        hospital.withdraw(number)
    with site_quota(hospital.home, 0.9):
        hospital.does("ingest")
    assert hospital.drift() == Drift(added, removed, altered)
    told = hospital.refusal()
    assert told.code == "cohort-drift"
    assert f"(16 cases): {added} added, {removed} removed, {altered} altered" in told.sentence


@contextlib.contextmanager
def site_quota(home: Path, quota: float) -> Iterator[None]:
    """For a moment the site takes whatever share of unusable cases."""
    text = (home / "site.toml").read_text()
    (home / "site.toml").write_text(text.replace("quota = 0.2", f"quota = {quota}"))
    yield
    (home / "site.toml").write_text(text)


def test_a_file_that_is_gone_is_no_drift_and_neither_is_a_second_ingest(hospital: Hospital) -> None:
    (hospital.source / read_rows(hospital.source)[3]["image"]).unlink()
    hospital.does("ingest")
    hospital.does("ingest")
    assert hospital.drift() == UNCHANGED


def test_data_that_are_brought_back_are_the_frozen_ones_again(hospital: Hospital) -> None:
    table = read_rows(hospital.source)
    image = hospital.source / table[5]["image"]
    before = image.read_bytes()
    hospital.change(5)
    hospital.withdraw(7)
    hospital.does("ingest")
    assert hospital.drift() == Drift(0, 1, 1)
    image.write_bytes(before)
    write_rows(hospital.source, table)
    hospital.does("ingest")
    assert hospital.drift() == UNCHANGED


def test_a_new_freeze_makes_the_changed_data_the_frozen_ones(hospital: Hospital) -> None:
    first = cohort_of(hospital.home)
    hospital.add(2)
    hospital.does("ingest")
    hospital.does("doctor")
    hospital.does("freeze")
    assert hospital.drift() == UNCHANGED
    assert len(cohort_of(hospital.home).members) == len(first.members) + 1
    assert log_of(hospital.home) == ["init", "ingest", "doctor", "freeze", "ingest", "doctor", "freeze"]
