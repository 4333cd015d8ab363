"""What a site reports before round 1 says nothing about its patients: it is the same whoever they are."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from guarded_site import guarded_site, private_plan
from tiny_federation import SITES, tiny_data, tiny_plan

from client.data.prepared.site_data import SiteData
from client.site import Site
from client.workbench import Workbench
from shared.fingerprint import Fingerprint
from shared.messages import Envelope, Hello, Welcome
from shared.plan import Plan
from shared.preprocessing.image import Case


class Untouchable(Sequence[Case]):
    """Cases that nobody may look at, count or walk through."""

    def _refuse(self) -> NoReturn:
        raise AssertionError("a case of the site was looked at")

    def __len__(self) -> int:
        raise AssertionError("the cases of the site were counted")

    def __getitem__(self, _position: object) -> NoReturn:
        self._refuse()

    def __iter__(self) -> Iterator[Case]:
        self._refuse()


def reported(site: Site, plan: Plan) -> Fingerprint:
    reply = site.answer(Hello(Envelope("run", plan.digest(), 0)))
    assert isinstance(reply, Welcome), reply
    return reply.fingerprint


def brighter(data: SiteData) -> SiteData:
    """The same patients with other images and labels."""

    def changed(cases: Sequence[Case]) -> list[Case]:
        return [Case(one.case_id, one.patient, one.voxels * np.float32(9), None, 0, one.spacing_mm) for one in cases]

    return SiteData(changed(data.train), changed(data.validation), changed(data.test), data.train_patients)


def test_the_fingerprint_of_a_site_is_made_without_looking_at_a_single_case() -> None:
    plan = tiny_plan()
    nobody = Untouchable()
    site = Site("aachen", SiteData(nobody, nobody, nobody, ((0,),)), Workbench.for_plan(plan))
    assert reported(site, plan) == Workbench.for_plan(plan).fingerprint()


def test_under_patient_level_privacy_the_fingerprint_is_the_same_whoever_the_patients_are(tmp_path: Path) -> None:
    plan = private_plan()
    found = []
    for number, data in enumerate([tiny_data("aachen"), tiny_data(SITES[1]), brighter(tiny_data("aachen"))]):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(reported(guarded_site(plan, folder, data=data), plan))
    assert found[0] == found[1] == found[2]
    assert found[0] == Workbench.for_plan(plan).fingerprint()
