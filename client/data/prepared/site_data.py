"""What a site trains and measures on: its prepared cases, divided by patient.

Promises
- All cases of a patient are in one split; ``train_patients`` says which training cases belong to one patient, so that a
  sampler can draw patients.
- A site that cannot take part says why with the numbers: too many unusable cases, none usable, no patient to train on.
  What is merely odd (one class, one patient, nobody to test on) is a note, and the site takes part.
- Cases are read when they are asked for; dividing a site reads no image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from client.data.case_files import Quarantined
from client.data.cohort.split import split_of
from client.data.prepared.store import Entry, Store
from shared.errors import SiteDataError
from shared.messages import Split
from shared.plan import Plan
from shared.preprocessing.image import Case


@dataclass(frozen=True, eq=False)
class StoredCases(Sequence[Case]):
    """Some cases of a store, in a fixed order, read when indexed."""

    store: Store
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> StoredCases: ...
    def __getitem__(self, index: int | slice) -> Case | StoredCases:
        if isinstance(index, slice):
            return StoredCases(self.store, self.positions[index])
        return self.store.case(self.positions[index])

    def __iter__(self) -> Iterator[Case]:
        return (self.store.case(position) for position in self.positions)


@dataclass(frozen=True, eq=False)
class SiteData:
    """A site's cases by split.

    Attributes:
        train: cases that may be trained on.
        validation: cases that may be looked at while a run goes on.
        test: cases for the final numbers.
        train_patients: for each training patient the positions of their cases in ``train``.
        quarantined: cases that could not be used.
        notes: what is odd about this site, in sentences.
    """

    train: Sequence[Case]
    validation: Sequence[Case]
    test: Sequence[Case]
    train_patients: tuple[tuple[int, ...], ...]
    quarantined: tuple[Quarantined, ...] = ()
    notes: tuple[str, ...] = ()

    def split(self, name: Split) -> Sequence[Case]:
        """The cases of one split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def load_site_data(store: Store, plan: Plan, site: str) -> SiteData:
    """Divide the cases of ``store`` among the splits of ``plan``; raises ``SiteDataError``."""
    _check_quota(store, plan.data.quarantine_quota)
    positions: dict[Split, list[int]] = {"train": [], "validation": [], "test": []}
    for position, entry in enumerate(store.entries):
        positions[split_of(plan.plan.seed, site, entry.patient, plan.data)].append(position)
    training = [store.entries[position] for position in positions["train"]]
    if not training:
        patients = len({entry.patient for entry in store.entries})
        raise SiteDataError(
            f"none of the {patients} patients of this site falls into the training split",
            hint=f"a share of {plan.data.train_fraction:g} needs more patients, or raise data.train_fraction",
            code="no-training-patient",
        )
    return SiteData(
        train=StoredCases(store, tuple(positions["train"])),
        validation=StoredCases(store, tuple(positions["validation"])),
        test=StoredCases(store, tuple(positions["test"])),
        train_patients=by_patient([entry.patient for entry in training]),
        quarantined=store.quarantined,
        notes=tuple(_notes(training, positions, plan)),
    )


def by_patient(patients: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Positions of equal names, in the order in which names first occur."""
    found: dict[str, list[int]] = defaultdict(list)
    for position, patient in enumerate(patients):
        found[patient].append(position)
    return tuple(tuple(group) for group in found.values())


def _check_quota(store: Store, quota: float) -> None:
    unusable, usable = len(store.quarantined), len(store)
    reasons = ", ".join(f"{n} {code}" for code, n in Counter(one.code for one in store.quarantined).most_common())
    if not usable:
        raise SiteDataError(
            f"this site is empty: 0 usable cases, {unusable} unusable" + (f" ({reasons})" if reasons else ""),
            hint="check the folder, the site's name and what the reasons say",
            code="empty-site",
        )
    # A quotient, because 0.29 * 100 is 28.999999999999996 and would refuse the 29th case of a quota of 0.29.
    if unusable / (usable + unusable) > quota:
        raise SiteDataError(
            f"{unusable} of {usable + unusable} cases are unusable ({reasons}); the plan allows {quota:.0%}",
            hint="repair or remove these cases, or raise data.quarantine_quota",
            code="quarantine-quota",
        )


def _notes(training: Sequence[Entry], positions: dict[Split, list[int]], plan: Plan) -> Iterator[str]:
    if len({entry.patient for entry in training}) == 1:
        yield "one patient makes up the whole training split: the update follows that patient"
    labels = {entry.label for entry in training}
    if len(labels) == 1 and None not in labels:
        yield f"all training cases have one and the same label out of {len(plan.data.classes)} classes"
    for name in ("validation", "test"):
        if not positions[name]:
            yield f"no patient falls into the {name} split: this site adds nothing to {name} figures"
