"""One patient's gradient in every arm: the same image, the arm's own noise, a guess that has not seen the patient."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_federation import SITES, tiny_data, tiny_plan

from client.site import Site
from shared.messages import Vector
from shared.plan import Plan
from shared.seeds import generator
from simulations.attacks import reconstructing
from simulations.attacks.arms import arms_of, without_privacy
from simulations.attacks.findings import Network, Reconstruction
from simulations.attacks.inversion import Found, Search, Victim
from simulations.attacks.likeness import likeness
from simulations.attacks.population import population
from simulations.attacks.reconstructing import Wish, grey_range, reconstruct
from simulations.workers import Sites, SiteSpec

SPECS = tuple(SiteSpec(name, Path("nowhere"), "", Path("nowhere")) for name in SITES)
PLAN = tiny_plan(plan__rounds=1, training__steps=2)
ARMS = arms_of(PLAN, 20)[1:]
Seen = list[tuple[Victim, torch.Tensor, Search]]


def memory_sites(plan: Plan = PLAN) -> Sites:
    sites = Sites(without_privacy(plan), Path("nowhere"))
    sites._sites.update({name: Site(name, tiny_data(name), sites.workbench) for name in SITES})
    return sites


def wish(network: Network = "small", number: int = 0, pictures: str = "yes") -> Wish:
    return Wish(network, number, ARMS, iterations=2, pictures=pictures == "yes")


def tried(wanted: Wish) -> list[Reconstruction]:
    sites = memory_sites()
    return reconstruct(sites, SPECS, wanted, sites.workbench.initial_weights())


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the search is given, arm by arm; the search itself answers with an empty image."""
    given: Seen = []

    def looking(
        victim: Victim, observed: torch.Tensor, shape: tuple[int, ...], search: Search, rng: np.random.Generator
    ) -> Found:
        assert isinstance(rng, np.random.Generator)
        given.append((victim, observed, search))
        return Found(torch.zeros(shape), 1.0)

    monkeypatch.setattr(reconstructing, "invert", looking)
    return given


def the_patient(number: int) -> tuple[np.ndarray, int]:
    """First image and label of the patient that is drawn in place ``number``, by the oracle's own hand."""
    everybody = population(memory_sites(), SPECS)
    order = generator(PLAN.plan.seed, "attack", "looked-for").permutation(len(everybody.patients))
    case = everybody.cases[everybody.patients[order[number]][0]]
    assert isinstance(case.label, int)
    return case.voxels, case.label


@pytest.mark.parametrize("network", ["small", "plan"])
def test_the_plain_arm_releases_the_gradient_itself(seen: Seen, network: Network) -> None:
    tried(wish(network))
    victim, observed, _ = seen[0]
    voxels, label = the_patient(0)
    assert victim.target.tolist() == [label]
    torch.testing.assert_close(observed, victim.gradient(torch.from_numpy(voxels)[None]).detach())


def test_private_arms_release_the_clipped_gradient_with_noise_of_their_own_size(seen: Seen) -> None:
    tried(wish())
    plain = seen[0][1]
    for (_, observed, _), arm in zip(seen[1:], ARMS[1:], strict=True):
        assert arm.terms is not None
        norm = float(plain.double().norm())
        clipped = plain * min(1.0, arm.terms.clip_norm / norm)
        noise = observed * arm.terms.denominator - clipped
        assert float(noise.std()) == pytest.approx(arm.terms.noise_multiplier * arm.terms.clip_norm, rel=0.05)
        assert abs(float(torch.corrcoef(torch.stack([noise, plain]))[0, 1])) < 0.1
    strong, weak = (float(observed.std()) for _, observed, _ in (seen[2], seen[1]))
    assert strong > 2 * weak, "a smaller epsilon has more noise"


def test_arms_and_patients_draw_noise_of_their_own(seen: Seen) -> None:
    tried(wish(number=0))
    tried(wish(number=1))
    tried(wish(number=0))
    first, second, again = seen[1][1], seen[4][1], seen[7][1]
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_the_plan_s_own_network_is_attacked_at_the_weights_that_everybody_starts_from() -> None:
    """Whatever the workbench was used for before."""
    sites = memory_sites()
    initial: Vector = sites.workbench.initial_weights()
    before = reconstruct(sites, SPECS, wish("plan"), initial)
    sites.workbench.load(np.ones_like(initial))
    after = reconstruct(sites, SPECS, wish("plan"), initial)
    assert [one.distance for one in before] == [one.distance for one in after]


def test_a_patient_is_the_same_for_every_arm_and_network_and_another_for_another_number() -> None:
    truths = [one.truth for network in ("small", "plan") for one in tried(wish(network))]  # type: ignore[arg-type]
    assert all(truth is not None and np.array_equal(truth, truths[0]) for truth in truths)
    np.testing.assert_array_equal(truths[0], the_patient(0)[0])
    (other, *_) = tried(wish(number=1))
    assert other.truth is not None
    assert not np.array_equal(other.truth, truths[0])
    assert (other.patient, other.network) == (2, "small")


def test_the_guess_is_the_mean_of_others_and_never_holds_the_patient() -> None:
    everybody = population(memory_sites(), SPECS)
    firsts = np.stack([everybody.cases[own[0]].voxels for own in everybody.patients])
    truth = the_patient(0)[0]
    mine = [place for place, first in enumerate(firsts) if np.array_equal(first, truth)]
    assert len(mine) == 1
    others = np.delete(firsts, mine[0], axis=0).mean(axis=0)
    low, high = grey_range(PLAN)
    oracle = likeness(torch.from_numpy(others)[None], torch.from_numpy(truth)[None], high - low)
    (found, *_) = tried(wish())
    assert found.guess.psnr_db == pytest.approx(oracle.psnr_db, abs=1e-3)
    holding = likeness(torch.from_numpy(firsts.mean(axis=0))[None], torch.from_numpy(truth)[None], high - low)
    assert holding.psnr_db > oracle.psnr_db + 0.1, "a guess that holds the patient would be told apart"


def test_pictures_come_back_only_where_they_may() -> None:
    assert all(one.picture is not None and one.truth is not None for one in tried(wish()))
    assert all(one.picture is None and one.truth is None for one in tried(wish(pictures="no")))


def test_numbers_are_the_same_with_pictures_and_without() -> None:
    pairs = zip(tried(wish()), tried(wish(pictures="no")), strict=True)
    assert all((one.found, one.guess, one.distance) == (two.found, two.guess, two.distance) for one, two in pairs)


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        ({"kind": "window", "low": -100, "high": 300}, (-1.0, 1.0)),
        ({"kind": "percentile"}, (-1.0, 1.0)),
        ({"kind": "zscore-per-image"}, (-4.0, 4.0)),
        ({"kind": "local-contrast", "sigma_px": 3.0}, (-4.0, 4.0)),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "range",
)
def test_the_range_of_grey_follows_from_the_plan(intensity: dict[str, object], expected: tuple[float, float]) -> None:
    assert grey_range(tiny_plan(preprocessing__intensity=intensity)) == expected


def test_the_search_is_given_that_range_and_the_wish_s_length(seen: Seen) -> None:
    tried(wish())
    assert {(search.low, search.high, search.iterations) for _, _, search in seen} == {(*grey_range(PLAN), 2)}
