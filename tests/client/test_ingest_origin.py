"""What a case was read from: equal while nothing needs to be read again, other as soon as something does."""

import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.case_files import CaseFiles, Salt
from client.data.ingest import origin as module
from client.data.ingest.origin import code_digest, origins, place_of
from client.data.ingest.reading import Rules
from client.data.source.files import SourceFile, walk
from shared.preprocessing.readable import Held

SALT = Salt("north", b"a secret of thirty-two bytes ...")
RULES = Rules()
NAMES = ("a.dcm", "b.dcm", "c.dcm", "mask.nii", "other.nii")


def found(*sources: Path, salt: Salt = SALT) -> dict[str, SourceFile]:
    """Files by their own name, as a walk over the sources finds them."""
    return {one.name: one for one in walk(sources, salt) if isinstance(one, SourceFile)}


@dataclass(frozen=True)
class Folder:
    """A folder of files, and a case that three of them and a mask make."""

    path: Path

    def case(self, salt: Salt = SALT, **changes: Any) -> CaseFiles:
        files = found(self.path, salt=salt)
        images = tuple(files[name] for name in NAMES[:3])
        case = CaseFiles(salt.case("1.2.3"), salt.person("P1"), images, files["mask.nii"], series="2.25.7")
        return replace(case, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(written(tmp_path / "source"))


def written(path: Path) -> Path:
    path.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (path / name).write_bytes(name.encode() * (10 + number))
        at(path / name, 1_700_000_000 + number)
    return path


def at(path: Path, seconds: int) -> None:
    """Give a file a time of last change."""
    os.utime(path, (seconds, seconds))


def origin(case: CaseFiles, rules: Rules = RULES, salt: Salt = SALT) -> str:
    return origins(rules, salt)(case)


def state_of(origin: str) -> str:
    return origin.removeprefix(place_of(origin))


# --- what it follows -------------------------------------------------------------------------------------------------


def test_it_is_equal_for_equal_files_whoever_asks_and_how_often(folder: Folder) -> None:
    origin_of = origins(RULES, SALT)
    assert len({origin_of(folder.case()), origin_of(folder.case()), origin(folder.case())}) == 1


@pytest.mark.parametrize("name", NAMES[:4])
def test_a_file_of_another_length_or_time_changes_the_state_and_not_the_place(folder: Folder, name: str) -> None:
    before = origin(folder.case())
    path = folder.path / name
    time = int(path.stat().st_mtime)
    at(path, time + 1)
    touched = origin(folder.case())
    path.write_bytes(path.read_bytes() + b"!")
    at(path, time)
    longer = origin(folder.case())
    assert len({before, touched, longer}) == 3
    assert len({place_of(one) for one in (before, touched, longer)}) == 1


def test_a_nanosecond_is_a_change(folder: Folder) -> None:
    """Copies of one second differ by less than that; a clock of seconds would call them one."""
    before = origin(folder.case())
    path = folder.path / NAMES[0]
    now = path.stat().st_mtime_ns
    os.utime(path, ns=(now, now + 1000))
    assert origin(folder.case()) != before


def test_new_bytes_of_the_same_length_and_time_are_not_noticed_and_the_module_says_so(folder: Folder) -> None:
    before = origin(folder.case())
    path = folder.path / NAMES[0]
    path.write_bytes(bytes(path.stat().st_size))
    at(path, 1_700_000_000)
    assert origin(folder.case()) == before
    assert "without changing its length and its time is not noticed" in (module.__doc__ or "")


def test_files_that_are_not_of_the_case_change_nothing(folder: Folder) -> None:
    before = origin(folder.case())
    (folder.path / "other.nii").write_bytes(b"changed")
    (folder.path / "new.dcm").write_bytes(b"new")
    assert origin(folder.case()) == before


def test_a_file_that_is_gone_changes_it_and_raises_nothing(folder: Folder) -> None:
    case = folder.case()
    before = origin(case)
    (folder.path / NAMES[1]).unlink()
    missing = origin(case)
    assert missing != before
    assert origin(case) == missing
    assert place_of(missing) == place_of(before)


CHANGES: list[dict[str, Any]] = [
    {"modality": "mr"},
    {"frame": 0},
    {"frame": 1},
    {"mask": None},
    {"label": "malignant"},
    {"subgroups": (("sex", "F"),)},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_everything_that_says_how_a_case_is_read_is_part_of_it(folder: Folder, change: dict[str, Any]) -> None:
    assert state_of(origin(folder.case(**change))) != state_of(origin(folder.case()))


@pytest.mark.parametrize("change", [{"label": "malignant"}, {"subgroups": (("sex", "F"),)}], ids=str)
def test_a_table_that_speaks_of_a_picture_does_not_make_it_read_again(folder: Folder, change: dict[str, Any]) -> None:
    """A picture has no header that the words could repeat."""
    assert origin(folder.case(series="", **change)) == origin(folder.case(series=""))


@pytest.mark.parametrize("change", [{"case_id": "0" * 24}, {"study": "2.25.1"}, {"aliases": ("a",)}], ids=str)
def test_names_alone_are_annotated_and_nothing_is_read_for_them(folder: Folder, change: dict[str, Any]) -> None:
    assert origin(folder.case(**change)) == origin(folder.case())


def test_the_order_of_files_counts_as_slices_may_lie_in_it(folder: Folder) -> None:
    case = folder.case()
    reordered = replace(case, images=(*case.images[1:], case.images[0]))
    assert state_of(origin(reordered)) != state_of(origin(case))


def test_an_image_and_a_mask_that_are_exchanged_are_another_case(folder: Folder) -> None:
    files = found(folder.path)
    one = folder.case(images=(files["a.dcm"],), mask=files["mask.nii"])
    other = folder.case(images=(files["mask.nii"],), mask=files["a.dcm"])
    joined = folder.case(images=(files["a.dcm"], files["mask.nii"]), mask=None)
    assert len({state_of(origin(case)) for case in (one, other, joined)}) == 3


def test_a_slice_follows_the_whole_series_that_its_mask_is_of(folder: Folder) -> None:
    case = folder.case()
    slices = [replace(case, images=(image,), slice_of=case.images) for image in case.images]
    before = list(map(origin, slices))
    assert len(set(before)) == 3
    at(folder.path / NAMES[2], 1)
    assert all(now != then for now, then in zip(map(origin, slices), before, strict=True))
    alone = replace(case, images=case.images[:1])
    kept = origin(alone)
    at(folder.path / NAMES[2], 2)
    assert origin(alone) == kept, "the control: without a mask of the series the slice stands for itself"


def test_slices_of_two_series_are_told_apart_in_one_run(folder: Folder) -> None:
    """The function remembers the last few series; what it remembers must not be given to another."""
    origin_of = origins(RULES, SALT)
    case = folder.case()
    choices = [case.images[:2], case.images[1:], case.images, (), case.images[::-1], case.images[:1]]
    first = [origin_of(replace(case, slice_of=series)) for series in choices]
    again = [origin_of(replace(case, slice_of=series)) for series in reversed(choices)]
    assert len(set(first)) == len(choices)
    assert again[::-1] == first


# --- rules, secrets, code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        Rules(refuse=frozenset()),
        Rules(refuse=frozenset({"declared"})),
        Rules(dates="shift"),
        Rules(structures={"liver": 1}),
        Rules(structures={"liver": 2}),
        Rules(structures={"spleen": 1}),
    ],
    ids=["none", "declared", "dates", "liver-1", "liver-2", "spleen-1"],
)
def test_other_rules_of_the_site_look_at_every_case_again(folder: Folder, other: Rules) -> None:
    assert state_of(origin(folder.case(), other)) != state_of(origin(folder.case()))


def test_no_two_sets_of_rules_are_taken_for_each_other(folder: Folder) -> None:
    refused: Iterable[Any] = ("declared", "secondary-capture", "text")
    sets = [frozenset(word for place, word in enumerate(refused) if mask >> place & 1) for mask in range(8)]
    structures = [{}, {"a": 1}, {"a": 2}, {"a": 1, "b": 2}, {"b": 2}]
    rules = [
        Rules(refuse=chosen, dates=dates, structures=classes)
        for chosen in sets
        for dates in ("drop", "shift")
        for classes in structures
    ]
    assert len({origin(folder.case(), one) for one in rules}) == len(rules) == 80


def test_the_order_in_which_rules_are_written_changes_nothing(folder: Folder) -> None:
    one = Rules(refuse=frozenset(("declared", "text")), structures={"liver": 1, "spleen": 2})
    other = Rules(refuse=frozenset(("text", "declared")), structures={"spleen": 2, "liver": 1})
    assert origin(folder.case(), one) == origin(folder.case(), other)


def test_a_patient_whose_dates_are_shifted_by_other_days_is_read_again_and_only_then(folder: Folder) -> None:
    people = [SALT.person(f"P{number}") for number in range(9)]
    assert len({SALT.days(patient) for patient in people}) == 9
    dropped = {origin(folder.case(patient=patient)) for patient in people}
    shifted = {origin(folder.case(patient=patient), Rules(dates="shift")) for patient in people}
    assert (len(dropped), len(shifted)) == (1, 9)


def test_another_site_or_secret_gives_unrelated_places(folder: Folder) -> None:
    salts = [SALT, replace(SALT, site="south"), replace(SALT, secret=bytes(32))]
    assert len({place_of(origin(folder.case(salt), salt=salt)) for salt in salts}) == 3


def test_changed_code_reads_everything_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = origin(folder.case())
    monkeypatch.setattr(module, "code_digest", lambda: "another reader")
    assert state_of(origin(folder.case())) != state_of(before)


@pytest.fixture
def recomputed() -> Callable[[], str]:
    """The digest of the code as it is now: what a new process would compute."""

    def compute() -> str:
        code_digest.cache_clear()
        return code_digest()

    return compute


def test_the_digest_of_the_code_follows_its_modules_and_the_versions_of_what_they_call(
    recomputed: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = recomputed()
    assert recomputed() == before
    monkeypatch.setattr(module, "version", lambda name: "99" if name == "pydicom" else "1")
    versions = recomputed()
    monkeypatch.setattr(module, "version", lambda _: "1")
    others = recomputed()
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "reader.py").write_text("one = 1\n")
    monkeypatch.setattr(module.ingest, "__file__", str(tmp_path / "__init__.py"))
    small = recomputed()
    (tmp_path / "reader.py").write_text("one = 2\n")
    edited = recomputed()
    (tmp_path / "notes.txt").write_text("no code")
    assert recomputed() == edited
    assert len({before, versions, others, small, edited}) == 5
    monkeypatch.undo()
    assert recomputed() == before


# --- places and names ------------------------------------------------------------------------------------------------


def test_two_folders_with_files_of_the_same_names_are_two_places(tmp_path: Path) -> None:
    one, other = Folder(written(tmp_path / "one")), Folder(written(tmp_path / "other"))
    first, second = origin(one.case()), origin(other.case())
    assert place_of(first) != place_of(second)
    assert state_of(first) == state_of(second), "nothing but the place differs"


def test_a_place_says_nothing_of_its_path_and_neither_does_a_state(tmp_path: Path) -> None:
    folder = Folder(written(tmp_path / "Doe^Jane" / "born 1950-01-01"))
    said = origin(folder.case(label="Doe^Jane", subgroups=(("name", "Doe^Jane"),)))
    place, dot, state = said.partition(".")
    assert (len(place), dot, len(state)) == (24, ".", 64)
    assert set(place + state) <= set("0123456789abcdef")
    assert place == SALT.case("place", str((folder.path / "a.dcm").resolve()))


@pytest.mark.parametrize("text", ["", "no dot at all", "older form"])
def test_what_an_earlier_version_wrote_is_some_place_and_no_error(text: str) -> None:
    assert place_of(text) == text


def test_a_member_of_an_archive_follows_the_archive(tmp_path: Path) -> None:
    def packed(content: bytes, seconds: int) -> CaseFiles:
        with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
            for name in NAMES[:2]:
                archive.writestr(zipfile.ZipInfo(name), content)
        at(tmp_path / "scans.zip", seconds)
        files = found(tmp_path)
        return CaseFiles("c", "p", tuple(files[name] for name in NAMES[:2]), series="2.25.7")

    first = origin(packed(b"one", 1_700_000_000))
    assert origin(packed(b"one", 1_700_000_000)) == first
    assert state_of(origin(packed(b"one", 1_700_000_001))) != state_of(first)
    assert state_of(origin(packed(b"one more", 1_700_000_000))) != state_of(first)
    assert place_of(first) == SALT.case("place", f"{(tmp_path / 'scans.zip').resolve()}/{NAMES[0]}")


def test_files_of_one_archive_are_places_of_their_own(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for name in NAMES[:3]:
            archive.writestr(name, b"same")
    cases = [CaseFiles("c", "p", (file,)) for file in found(tmp_path).values()]
    assert len({place_of(origin(case)) for case in cases}) == 3
    assert len({state_of(origin(case)) for case in cases}) == 3


def test_what_is_held_in_memory_has_an_origin_too() -> None:
    case = CaseFiles("c", "p", (Held("one.png", b"12"),))
    assert origin(case) == origin(case)


@given(
    st.lists(st.sampled_from(["mask", *NAMES]), min_size=1, max_size=5), st.lists(st.sampled_from(NAMES), max_size=5)
)
def test_lists_of_files_that_differ_have_states_that_differ(images: list[str], series: list[str]) -> None:
    """Nothing at a border between two lists reads like the other list; files that are not there are named, too."""

    def case(some: list[str], whole: list[str]) -> CaseFiles:
        at_place = [[SourceFile(f"/nowhere/{name}", f"seen-{name}") for name in names] for names in (some, whole)]
        return CaseFiles("c", "p", tuple(at_place[0]), slice_of=tuple(at_place[1]))

    variants = [(images, series), ([*images, "a.dcm"], series), (images, [*series, "a.dcm"]), (images + series, [])]
    kinds = {(tuple(some), tuple(whole)) for some, whole in variants}
    assert len({state_of(origin(case(list(some), list(whole)))) for some, whole in kinds}) == len(kinds)
