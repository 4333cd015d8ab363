"""What a site trains and measures on: its prepared cases, divided by patient.

Promises
- All cases of a patient are in one split; ``train_patients`` says which training cases belong to one patient, so that a
  sampler can draw patients.
- The cohort says who is trained on, and the plan must want the same shares: nobody is dealt anew behind a hospital's
  back.
- A site that cannot take part says why with the numbers: too many unusable cases, none usable, no patient to train on.
  Unusable are cases that could not be read when the cohort was frozen, and members that the task cannot use; what the
  hospital left out of its cohort is not. What is merely odd (one class, one patient, nobody to test on) is a note, and
  the site takes part.
- Cases are read when they are asked for; dividing a site reads no image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from client.data.cohort.manifest import Cohort
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
        quarantined: how many cases could not be used, by reason.
        notes: what is odd about this site, in sentences.
    """

    train: Sequence[Case]
    validation: Sequence[Case]
    test: Sequence[Case]
    train_patients: tuple[tuple[int, ...], ...]
    quarantined: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def split(self, name: Split) -> Sequence[Case]:
        """The cases of one split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def load_site_data(store: Store, cohort: Cohort, plan: Plan) -> SiteData:
    """Divide the cases of ``store``, which was prepared from ``cohort``, among the splits; raises ``SiteDataError``."""
    _require_shares(cohort, plan)
    quarantined = unusable(store, cohort)
    _check_quota(len(store), quarantined, plan.data.quarantine_quota)
    positions = _divided(store, cohort)
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
        quarantined=quarantined,
        notes=tuple(_notes(training, positions, plan)),
    )


def unusable(store: Store, cohort: Cohort) -> Counter[str]:
    """How many cases a site cannot use for its plan, by reason: in reading them, and in preparing them."""
    return Counter(dict(cohort.quarantined)) + Counter(one.code for one in store.quarantined)


def _require_shares(cohort: Cohort, plan: Plan) -> None:
    frozen = (cohort.rule.train_fraction, cohort.rule.validation_fraction)
    wanted = (plan.data.train_fraction, plan.data.validation_fraction)
    if frozen != wanted:
        raise SiteDataError(
            f"the cohort was frozen with {frozen[0]:g} of patients for training and {frozen[1]:g} for validation, "
            f"the plan wants {wanted[0]:g} and {wanted[1]:g}",
            hint="freeze the data set anew with the plan's shares, and have that cohort approved",
            code="split-differs",
        )


def _divided(store: Store, cohort: Cohort) -> dict[Split, list[int]]:
    splits = {member.case_id: member.split for member in cohort.members}
    positions: dict[Split, list[int]] = {"train": [], "validation": [], "test": []}
    for position, entry in enumerate(store.entries):
        if entry.case_id not in splits:
            raise SiteDataError(
                f"the prepared cases are not of this cohort (case {position + 1} of {len(store)} is no member)",
                hint="prepare the cohort's cases",
                code="store-other",
            )
        positions[splits[entry.case_id]].append(position)
    return positions


def by_patient(patients: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Positions of equal names, in the order in which names first occur."""
    found: dict[str, list[int]] = defaultdict(list)
    for position, patient in enumerate(patients):
        found[patient].append(position)
    return tuple(tuple(group) for group in found.values())


def _check_quota(usable: int, quarantined: Counter[str], quota: float) -> None:
    bad = quarantined.total()
    reasons = ", ".join(f"{count} {code}" for code, count in quarantined.most_common())
    if not usable:
        raise SiteDataError(
            f"this site is empty: 0 usable cases, {bad} unusable" + (f" ({reasons})" if reasons else ""),
            hint="check the folder, the site's name and what the reasons say",
            code="empty-site",
        )
    # A quotient, because 0.29 * 100 is 28.999999999999996 and would refuse the 29th case of a quota of 0.29.
    if bad / (usable + bad) > quota:
        raise SiteDataError(
            f"{bad} of {usable + bad} cases are unusable ({reasons}); the plan allows {quota:.0%}",
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
