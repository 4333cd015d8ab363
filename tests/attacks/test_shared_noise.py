"""A coordinator that looks for one patient in sums whose noise the sites share, alone and with sites that obey it.

Masks, sites and sums are the real ones. Every parameter of the update is one trial: the patient is in it or is not, and
moves it by as much as a patient can. What an attack proves of epsilon is compared with what was promised.
"""

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from summed import CONTEXT, Sum, code_of, found, key_of, names_of, party, run

from shared.fixed_point import peak, resolution
from shared.plan import FixedPoint
from shared.privacy.accounting import epsilon
from shared.privacy.events import Event
from shared.privacy.noise import UnsafeSeededNoise
from shared.privacy.shared_noise import Share, noised
from shared.secure.context import Context
from shared.secure.held import Held
from shared.secure.holders import Threshold
from shared.secure.question import definition
from simulations.attacks.bounds import proven_epsilon

Integers = NDArray[np.int64]

TRIALS = 300_000
SIGMA, DELTA = 2.0, 1e-2
GRID = FixedPoint(range=1.0, bits=16)
SHARE = Share(least=4, colluding=1)
AGREED = Threshold(SHARE.least, colluding=SHARE.colluding)
NAMES = names_of(6)
VICTIM, *OTHERS = NAMES
MOVES = 2.0**-8
"""As far as one patient can move a value."""
PROMISED = epsilon([Event(SIGMA, 1.0, 1)], DELTA)
IF_ALONE = epsilon([Event(SHARE.alone(SIGMA), 1.0, 1)], DELTA)
MEMBERS = np.random.default_rng(11).random(TRIALS) < 0.5


def parts(seed: int = 0) -> dict[str, Integers]:
    """What each site sends into the sum; the victim's patient is in every other trial or so."""
    deviation = SHARE.deviation(SIGMA * MOVES, GRID)
    changes = dict.fromkeys(NAMES, np.zeros(TRIALS)) | {VICTIM: MEMBERS * MOVES}
    return {
        name: noised(change, deviation, GRID, UnsafeSeededNoise(1000 * seed + place)).astype(np.int64)
        for place, (name, change) in enumerate(changes.items())
    }


def summed(sent: dict[str, Integers], dropped: Iterable[str] = (), context: Context = CONTEXT) -> Integers:
    """The sum as a coordinator gets it, after some sites dropped out before they masked."""
    model = definition("ef" * 32, np.zeros(3, np.float32), context.run)
    answers = {
        name: Held(one.astype(np.int32), np.zeros(0, np.int64), 1, peak(GRID), model) for name, one in sent.items()
    }
    values, _, weight = found(run(Sum(answers, AGREED, context), dict.fromkeys(dropped, 2)))
    assert weight == len(sent) - len(list(dropped))
    return np.array(values, np.int64)


def proven(seen: Integers) -> float:
    """What is proved by whoever calls those members whose value is large."""
    scores = (seen * resolution(GRID))[:, None]
    return proven_epsilon(scores, MEMBERS[:, None], DELTA).epsilon


def test_with_as_many_colluding_sites_as_planned_nothing_beyond_the_promise_is_proved() -> None:
    """The worst case: as few sites as a sum may have, and those that collude among them."""
    sent = parts()
    seen = summed(sent, dropped=OTHERS[-2:]) - sent[OTHERS[0]]
    assert PROMISED * 0.8 < proven(seen) <= PROMISED


def test_sites_beyond_the_threshold_hide_a_patient_better() -> None:
    sent = parts(1)
    few, many = summed(sent, dropped=OTHERS[-2:]), summed(sent)
    assert proven(many) < proven(few) <= PROMISED


def test_where_all_others_collude_the_promise_is_broken_and_what_is_said_of_that_case_holds() -> None:
    """The control: the attack does find more where there is more to find."""
    sent = parts(2)
    seen = summed(sent) - sum(sent[name] for name in OTHERS)
    assert PROMISED < proven(seen) <= IF_ALONE


def test_whoever_sees_one_site_s_part_without_its_mask_sees_as_much() -> None:
    assert PROMISED < proven(parts(3)[VICTIM]) <= IF_ALONE


def test_a_sum_of_fewer_sites_than_the_noise_is_sized_for_is_not_to_be_had() -> None:
    sent = {name: one[:5] for name, one in parts().items()}
    assert code_of(lambda: summed(sent, dropped=OTHERS[-3:])) == "below-threshold"


def test_a_round_is_not_summed_again_without_one_site_whose_part_would_be_the_difference() -> None:
    """The same round of a run has the same noise: a stored reply is given, and never drawn again."""
    sent = {name: one[:5] for name, one in parts().items()}
    model = definition("ef" * 32, np.zeros(3, np.float32), CONTEXT.run)
    answers = {
        name: Held(one.astype(np.int32), np.zeros(0, np.int64), 1, peak(GRID), model) for name, one in sent.items()
    }
    members = {name: key_of(name).verify_key for name in NAMES}
    parties = {name: party(name, members, AGREED) for name in NAMES}
    first = Sum(answers, AGREED, parties=parties)
    everybody, _, _ = found(run(first))
    assert everybody == sum(sent.values()).tolist()  # type: ignore[union-attr]
    again = Sum({name: one for name, one in answers.items() if name != VICTIM}, AGREED, parties=parties)
    again.members = members
    assert code_of(lambda: again.until("confirm")) == "unmasked-otherwise"


@pytest.mark.parametrize(("enrolled", "colluding", "borne"), [(6, 1, True), (7, 1, False), (6, 2, False), (7, 0, True)])
def test_no_keys_are_agreed_on_where_a_lying_coordinator_could_have_two_sums(
    enrolled: int,
    colluding: int,
    borne: bool,  # noqa: FBT001 - a case
) -> None:
    """2 t > n + c, with t = 4 of them."""
    rule = Threshold(4, colluding=colluding)
    if borne:
        assert rule.of(6, enrolled) == 4
    else:
        assert code_of(lambda: rule.of(6, enrolled)) == "threshold-low"
