"""Cohorts on disk: only what this site froze and signed is ever loaded again."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.cohort.files import current, load, save
from client.data.cohort.manifest import Cohort, Member, SplitRule
from shared.crypto.signing import SigningKey
from shared.errors import SiteDataError

KEY = SigningKey.generate()
MEMBER = Member("a" * 24, "b" * 24, "train", "c" * 64, "d" * 64, (1, 12, 10), (0.7, 0.7), "us", True, "benign")
COHORT = Cohort(
    "north",
    "liver-ct",
    SplitRule(7, 0.6, 0.2),
    (MEMBER, replace(MEMBER, case_id="e" * 24, split="test", label=None, masked=False)),
    (("by-name", 1),),
    (("mask-shape", 2),),
    ("f" * 24,),
)


def refusal(folder: Path, digest: str | None = None, key: SigningKey = KEY) -> SiteDataError:
    with pytest.raises(SiteDataError) as caught:
        load(folder, key.verify_key, digest)
    return caught.value


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    digest = save(COHORT, tmp_path / "cohorts", KEY)
    assert digest == COHORT.digest()
    assert load(tmp_path / "cohorts", KEY.verify_key) == COHORT
    assert load(tmp_path / "cohorts", KEY.verify_key, digest) == COHORT


names = st.text(max_size=12)
members = st.builds(
    Member,
    case_id=names,
    patient=names,
    split=st.sampled_from(["train", "validation", "test"]),
    source_sha256=names,
    content=names,
    shape=st.lists(st.integers(1, 9), min_size=3, max_size=4).map(tuple),
    spacing_mm=st.lists(st.floats(0.001, 100), min_size=2, max_size=3).map(tuple),
    modality=names,
    masked=st.booleans(),
    label=st.none() | names,
)
counts = st.lists(st.tuples(names, st.integers(0, 10**6)), max_size=3).map(tuple)
rules = st.builds(SplitRule, st.integers(0, 2**63), st.floats(0, 1), st.floats(0, 1))
cohorts = st.builds(Cohort, names, names, rules, st.lists(members, max_size=4).map(tuple), counts, counts)


@given(cohorts)
@settings(max_examples=50)
def test_any_cohort_survives_the_disk(tmp_path_factory: pytest.TempPathFactory, cohort: Cohort) -> None:
    folder = tmp_path_factory.mktemp("cohorts")
    save(cohort, folder, KEY)
    assert load(folder, KEY.verify_key) == cohort


def test_the_file_is_the_canonical_bytes_and_its_name_their_sha256(tmp_path: Path) -> None:
    save(COHORT, tmp_path, KEY)
    (path,) = tmp_path.glob("*.cohort")
    assert path.read_bytes() == COHORT.canonical_bytes()
    assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.read_bytes().startswith(b"consilium-cohort-1\n{")


def test_several_cohorts_lie_side_by_side_and_the_last_one_frozen_is_current(tmp_path: Path) -> None:
    other = replace(COHORT, rule=SplitRule(8, 0.6, 0.2))
    first, second = save(COHORT, tmp_path, KEY), save(other, tmp_path, KEY)
    assert current(tmp_path) == second != first
    assert load(tmp_path, KEY.verify_key, first) == COHORT
    assert load(tmp_path, KEY.verify_key) == other
    save(COHORT, tmp_path, KEY)
    assert current(tmp_path) == first


def test_freezing_the_same_twice_changes_no_byte(tmp_path: Path) -> None:
    save(COHORT, tmp_path, KEY)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save(COHORT, tmp_path, KEY)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len(before) == 3


def test_only_the_owner_can_read_a_cohort(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        save(COHORT, tmp_path / "cohorts", KEY)
    finally:
        os.umask(before)
    assert (tmp_path / "cohorts").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "cohorts").iterdir()} == {0o600}


def test_where_nothing_was_frozen_the_answer_says_how(tmp_path: Path) -> None:
    assert current(tmp_path / "nowhere") is None
    error = refusal(tmp_path)
    assert (error.code, "consilium-site freeze" in error.hint) == ("cohort-missing", True)


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc/passwd", "abc", COHORT.digest()[:12]])
def test_a_digest_that_names_no_cohort_is_refused(tmp_path: Path, digest: str) -> None:
    save(COHORT, tmp_path, KEY)
    assert refusal(tmp_path, digest).code == "cohort-missing"


@pytest.mark.parametrize("position", [0, 25, 200, -1])
def test_a_flipped_bit_in_a_cohort_is_found(tmp_path: Path, position: int) -> None:
    digest = save(COHORT, tmp_path, KEY)
    path = tmp_path / f"{digest}.cohort"
    said = bytearray(path.read_bytes())
    said[position] ^= 1
    path.write_bytes(said)
    assert refusal(tmp_path).code == "cohort-damaged"


def test_a_cohort_whose_name_was_changed_along_with_it_lacks_this_sites_signature(tmp_path: Path) -> None:
    """Who can write the folder, but has no key, moves a patient from test to training and makes it all look right."""
    save(COHORT, tmp_path, KEY)
    forged = COHORT.canonical_bytes().replace(b'"test"', b'"train"')
    digest = hashlib.sha256(forged).hexdigest()
    (tmp_path / f"{digest}.cohort").write_bytes(forged)
    (tmp_path / f"{COHORT.digest()}.signature").replace(tmp_path / f"{digest}.signature")
    (tmp_path / "current").write_text(digest)
    error = refusal(tmp_path)
    assert error.code == "cohort-signature"
    assert KEY.verify_key.fingerprint() in error.sentence


def test_a_cohort_of_another_site_is_not_taken_over(tmp_path: Path) -> None:
    save(COHORT, tmp_path, SigningKey.generate())
    assert refusal(tmp_path).code == "cohort-signature"


@pytest.mark.parametrize("signature", [b"", bytes(64), b"short"])
def test_a_signature_that_is_none_is_refused(tmp_path: Path, signature: bytes) -> None:
    digest = save(COHORT, tmp_path, KEY)
    (tmp_path / f"{digest}.signature").write_bytes(signature)
    assert refusal(tmp_path).code == "cohort-signature"


def test_a_cohort_without_its_signature_is_refused(tmp_path: Path) -> None:
    digest = save(COHORT, tmp_path, KEY)
    (tmp_path / f"{digest}.signature").unlink()
    assert refusal(tmp_path).code == "cohort-missing"


@pytest.mark.parametrize("said", [b"consilium-cohort-2\n{}", b"consilium-cohort-1\n[]", b"consilium-cohort-1\nno JSON"])
def test_a_cohort_that_another_version_signed_is_refused_and_not_guessed(tmp_path: Path, said: bytes) -> None:
    digest = hashlib.sha256(said).hexdigest()
    (tmp_path / f"{digest}.cohort").write_bytes(said)
    (tmp_path / f"{digest}.signature").write_bytes(KEY.sign(said))
    assert refusal(tmp_path, digest).code == "cohort-version"


@pytest.mark.parametrize("note", [b"", b"../secret", b"\xff" * 64])
def test_a_note_of_the_current_cohort_that_names_none_is_refused(tmp_path: Path, note: bytes) -> None:
    digest = save(COHORT, tmp_path, KEY)
    (tmp_path / "current").write_bytes(note)
    assert refusal(tmp_path).code == "cohort-damaged"
    assert load(tmp_path, KEY.verify_key, digest) == COHORT


def test_a_process_killed_at_any_moment_leaves_the_old_cohort_or_the_new_one(tmp_path: Path) -> None:
    """The child kills itself at each flush and rename; control: both outcomes occur."""
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from client.data.cohort import files
        from client.data.cohort.manifest import Cohort, SplitRule
        from shared.crypto.signing import SigningKey

        left = int(sys.argv[2])
        def deadly(call):
            def counted(*arguments, **named):
                global left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **named)
            return counted

        os.fsync = deadly(os.fsync)
        Path.replace = deadly(Path.replace)
        folder = Path(sys.argv[1])
        new = Cohort("north", "ct", SplitRule(9, 0.5, 0.1), ())
        files.save(new, folder / "cohorts", SigningKey.load(folder / "key.pem"))
    """)
    seeds = []
    for moment in range(10):
        folder = tmp_path / str(moment)
        folder.mkdir()
        KEY.save(folder / "key.pem")
        save(COHORT, folder / "cohorts", KEY)
        command = [sys.executable, "-c", script, str(folder), str(moment)]
        child = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, timeout=60)
        assert child.returncode in {0, -signal.SIGKILL}
        seeds.append(load(folder / "cohorts", KEY.verify_key).rule.seed)
    assert seeds[0] == 7
    assert seeds[-1] == 9
    assert set(seeds) == {7, 9}
