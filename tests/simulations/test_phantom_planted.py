"""Faults in synthetic hospitals: the damage that was asked for, in one hospital's files, and nothing else."""

import gzip
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from small_hospitals import contents

from shared.errors import ScenarioError
from simulations.faults import KINDS, Fault, Kind
from simulations.phantoms import PhantomFederation, tiny_hospitals, write_hospitals
from simulations.phantoms.cohort import members, scans
from simulations.phantoms.planted import planted
from simulations.phantoms.scanner import quantise

PLANTABLE: tuple[Kind, ...] = ("images-inverted", "masks-shifted", "patients-at-two-sites")
TWO = tiny_hospitals(2, 5, patients=3)
HERE, OTHER = (one.name for one in TWO.hospitals)
SEED = 5


def fault(kind: Kind, **changes: int) -> Fault:
    return Fault(kind, HERE, other=OTHER, **changes)


def written(folder: Path, federation: PhantomFederation) -> dict[str, bytes]:
    write_hospitals(folder, federation, SEED)
    return contents(folder)


def masks(files: dict[str, bytes]) -> Iterator[np.ndarray]:
    """Masks of ``HERE`` with axes (row, column), in the order of their files."""
    for name in sorted(files):
        if name.startswith(f"{HERE}/masks/") and name.endswith(".nii.gz"):
            image = nibabel.Nifti1Image.from_bytes(gzip.decompress(files[name]))
            yield np.asarray(image.dataobj)[:, :, 0].T
        elif name.startswith(f"{HERE}/masks/"):
            dataset = hd.seg.Segmentation.from_dataset(dcmread(io.BytesIO(files[name])))
            sources = [uid for _, _, uid in dataset.get_source_image_uids()]
            yield dataset.get_pixels_by_source_instance(
                sources, combine_segments=True, assert_missing_frames_are_empty=True
            )[0]


def test_without_a_fault_hospitals_are_what_they_were() -> None:
    assert planted(TWO, None) is TWO


@pytest.mark.parametrize("kind", PLANTABLE)
def test_only_the_named_hospital_changes_and_the_truth_about_its_own_people_stays(tmp_path: Path, kind: Kind) -> None:
    before = written(tmp_path / "honest", TWO)
    after = written(tmp_path / "damaged", planted(TWO, fault(kind)))
    assert before != after
    kept = [name for name in before if name.startswith((f"{OTHER}/", f"truth/{OTHER}"))]
    assert kept
    assert all(after[name] == before[name] for name in kept)
    truth = f"truth/{HERE}.csv"
    assert after[truth].startswith(before[truth])


def test_inverted_hounsfield_units_add_up_with_the_true_ones_to_zero() -> None:
    """But for noise, which is none here, and where twelve bits end."""
    quiet = replace(TWO.hospitals[0], scanner=replace(TWO.hospitals[0].scanner, noise_hu=0.0, cupping_hu=0.0))
    [damaged] = planted(PhantomFederation((quiet,)), Fault("images-inverted", HERE)).hospitals
    encoding = quiet.encoding
    for member in members(quiet, SEED):
        for before, after in zip(scans(quiet, member, SEED), scans(damaged, member, SEED), strict=True):
            one, other = (of.stored * encoding.slope + encoding.intercept for of in (before, after))
            assert np.abs(one + other).max() <= 1
            assert np.array_equal(before.truth.mask, after.truth.mask)
    assert quantise(np.array([-1000.0]), encoding) != quantise(np.array([1000.0]), encoding)


@pytest.mark.parametrize("form", ["nifti", "seg"])
@pytest.mark.parametrize("by", [1, 4])
def test_shifted_masks_lie_down_and_right_of_the_true_ones_and_images_stay(tmp_path: Path, form: str, by: int) -> None:
    here = replace(TWO.hospitals[0], masks=form, images=(1, 1))
    honest = PhantomFederation((here,))
    before = written(tmp_path / "honest", honest)
    after = written(tmp_path / "damaged", planted(honest, Fault("masks-shifted", HERE, by=by)))
    pairs = list(zip(masks(before), masks(after), strict=True))
    assert len(pairs) == 3
    for old, new in pairs:
        assert old.any()
        assert np.array_equal(new[by:, by:], old[:-by, :-by])
        assert not new[:by].any()
        assert not new[:, :by].any()
    pictures = [name for name in before if "/dicom/" in name]
    assert all(after[name] == before[name] for name in pictures)


def test_guests_bring_the_very_files_that_they_have_at_the_other_hospital(tmp_path: Path) -> None:
    files = written(tmp_path, planted(TWO, fault("patients-at-two-sites", patients=2)))
    honest = written(tmp_path / "honest", TWO)
    here, there = (
        {content for name, content in files.items() if name.startswith(f"{site}/dicom/")} for site in (HERE, OTHER)
    )
    own = {content for name, content in honest.items() if name.startswith(f"{HERE}/dicom/")}
    assert own < here
    guests = here - own
    assert guests < there
    people = {dcmread(io.BytesIO(content), stop_before_pixels=True).PatientID for content in guests}
    assert people == {member.identity.patient_id for member in list(members(TWO.hospitals[1], SEED))[:2]}
    rows = files[f"{HERE}/labels.csv"].decode().splitlines()
    assert len(rows) - 1 == len(here)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(PLANTABLE)))
def test_faults_of_labels_are_refused_in_words(kind: Kind) -> None:
    with pytest.raises(ScenarioError, match=f"{kind} cannot be planted") as refused:
        planted(TWO, fault(kind))
    assert refused.value.hint


def test_an_unknown_hospital_is_refused() -> None:
    with pytest.raises(ScenarioError, match="no site nowhere"):
        planted(TWO, Fault("masks-shifted", "nowhere"))
