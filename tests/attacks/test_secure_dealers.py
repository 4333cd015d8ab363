"""A coordinator that tells some sites of other dealers than it tells their neighbours, and never asks them to confirm.

They mask among themselves and with sites that obey it, and with nobody else. All the others confirm one and the same
thing, as many as it takes, and open the seeds of those who were told otherwise: what is left of their masks, the
colluding sites know. ``Attack`` is that, whole. The controls show that it works where sites do not ask each other what
they were told, down to the exact numbers of one site; and that it finds nothing where all were told the same.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from summed import CONTEXT, Sum, carried, code_of, expected, found, held, key_of, names_of

from client.secure import checks, steps
from client.secure.checks import Agreed
from client.secure.steps import HasConfirmed, HasDealt, HasMasked, Secrets
from shared.errors import ConsiliumError
from shared.messages import Masked
from shared.secure import masks
from shared.secure.agreement import agreed, mask_key, self_key, sign_of
from shared.secure.graph import _shuffled
from shared.secure.held import Held, parts
from shared.secure.holders import Circle, Threshold
from shared.secure.papers import Received, Revelation, Survivors, Unmasking
from shared.secure.ring import lift
from shared.secure.shamir import SHARE_BYTES, combine
from shared.secure.statements import dealers_message, graph_seed, seed_commitment, survivors_message

RING = Threshold(degree=lambda _sites: (6, 4), complete_up_to=8)
"""Six neighbours, three on either side; four of seven shares make a secret."""


def answers_of(sites: int) -> dict[str, Held]:
    numbers = np.random.default_rng(sites)
    return {
        site: held(numbers.integers(-100, 101, 4).tolist(), numbers.integers(0, 9, 2).tolist(), 1 + number % 3)
        for number, site in enumerate(sorted(names_of(sites)))
    }


@dataclass(frozen=True)
class Case:
    """A federation, and whom of it the attack is about.

    Attributes:
        sites: how many.
        rule: of the plan.
        apart: how many sites next to each other are told of other dealers; on a complete graph all are.
        colluding: at which places among them sites tell the coordinator all they know.
        shown: how many honest sites of the others those apart are told of too, farthest first.
    """

    sites: int
    rule: Threshold
    apart: int
    colluding: tuple[int, ...]
    shown: int


CASES = {
    "one-site-of-an-arc": Case(24, RING, 4, (1, 2, 3), 14),
    "an-arc-with-one-that-colludes": Case(24, RING, 4, (2,), 14),
    "an-arc-in-a-larger-federation": Case(32, RING, 4, (1,), 22),
    "one-site-of-a-complete-graph": Case(7, Threshold(4), 4, (1, 2, 3), 0),
    "two-sites-of-a-complete-graph": Case(7, Threshold(4), 4, (1, 3), 0),
}
"""The last two are beyond what their threshold is for: 2t > n + c does not hold."""


class Attack:
    """A sum up to masking, in which ``fooled`` sites were told of the dealers ``shown`` and the rest of all."""

    def __init__(self, case: Case, *, fooling: bool = True) -> None:
        self.sum = Sum(answers_of(case.sites), case.rule).until("deal")
        self.all = tuple(sorted(self.sum.answers))
        self.digest = self.sum.round.offers().sha256()
        ring = _shuffled(self.all, graph_seed(CONTEXT, self.digest))
        apart, others = ring[: case.apart], ring[case.apart :]
        self.colluding = tuple(apart[place] for place in case.colluding)
        self.fooled = tuple(site for site in apart if site not in self.colluding)
        self.honest = tuple(others)
        beyond = (len(others) - case.shown) // 2
        self.shown = tuple(sorted((*apart, *others[beyond : beyond + case.shown]))) if fooling else self.all
        self.secrets = {site: self._secrets(site) for site in self.colluding}
        self.masked = {site: self._mask(site) for site in self.all}

    def _secrets(self, site: str) -> Secrets:
        state = self.sum.parties[site]._sessions[CONTEXT.run].state
        assert isinstance(state, HasDealt)
        return state.secrets

    def shares(self, site: str) -> Mapping[str, bytes]:
        """Of whom a site holds shares, and which; before it has revealed them."""
        state = self.sum.parties[site]._sessions[CONTEXT.run].state
        assert isinstance(state, HasMasked | HasConfirmed)
        return state.shares

    def _mask(self, site: str) -> Masked:
        received = self.sum.round.received(site)
        if site in self.fooled:
            dealt = tuple(one for one in received.dealt if one.dealer in self.shown)
            received = Received(dealers=self.shown, dealt=dealt)
        return self.sum.parties[site].mask(CONTEXT, carried(received))

    @property
    def circle(self) -> Circle:
        return self.sum.round._circle

    def holders(self) -> set[str]:
        """Honest sites that hold shares of a fooled one's seed and were told of all dealers."""
        return {site for site in self.honest for fooled in self.fooled if fooled in self.circle.neighbours(site)}

    def survivors(self, signature: Callable[[str], str | None]) -> Survivors:
        """All sites, with what is given as the signature of each fooled one, and the true one of every other."""
        true = {site: message.signature for site, message in self.masked.items()}
        given = {site: signature(site) if site in self.fooled else true[site] for site in self.all}
        return Survivors(survivors=self.all, signatures={site: one for site, one in given.items() if one is not None})

    def confirmations(self, told: Survivors) -> dict[str, str]:
        """Of every honest site that was told of all dealers, and of those that sign whatever they are asked to."""
        said = survivors_message(CONTEXT, self.digest, self.all, self.all)
        theirs = {site: key_of(site).sign(said).hex() for site in self.colluding}
        return theirs | {site: self.sum.parties[site].confirm(CONTEXT, carried(told)).signature for site in self.honest}

    def revealed(self, confirmations: Mapping[str, str]) -> dict[str, Revelation]:
        asked = Unmasking(survivors=self.all, dropped=(), confirmations=dict(sorted(confirmations.items())))
        return {site: self.sum.parties[site].unmask(CONTEXT, carried(asked)) for site in self.honest}

    def seed(self, of: str, revealed: Mapping[str, Revelation]) -> bytes:
        """From what was revealed and what colluding sites hold; it is the one that was offered."""
        places = {holder: place for place, holder in enumerate(self.circle.holders[of])}
        shares = {places[site]: bytes.fromhex(one.seeds[of]) for site, one in revealed.items() if of in one.seeds}
        shares |= self.known(of)
        seed = combine(shares, self.circle.needed)
        offer = next(one for one in self.sum.round.offers().offers if one.site == of)
        assert seed_commitment(CONTEXT, of, seed) == offer.commitment
        return seed

    def known(self, of: str) -> dict[int, bytes]:
        """Shares of a seed that colluding sites hold, without anybody's help."""
        places = {holder: place for place, holder in enumerate(self.circle.holders[of])}
        held_ = {site: self.shares(site) for site in self.colluding if site in places}
        return {places[site]: shares[of][:SHARE_BYTES] for site, shares in held_.items()}

    def opened(self, revealed: Mapping[str, Revelation]) -> list[int]:
        """The sum of the weighted values of the fooled sites, if nothing but what is known here hides it."""
        total, counts, bits = np.zeros(4, np.uint32), np.zeros(2, np.uint64), self.sum.round.offers().bits
        for site in self.fooled:
            packed, words_ = parts(self.masked[site])
            values, words = packed.copy(), words_.copy()
            masks.remove(self_key(self.seed(site, revealed), CONTEXT, site), 1, values, words)
            for peer in set(self.circle.neighbours(site)) & set(self.colluding):
                masks.remove(self.pair(peer, site), sign_of(site, peer), values, words)
            total += values
            counts += words
        return [*map(int, lift(total & np.uint32(2**bits - 1), bits)), *map(int, counts.view(np.int64))]

    def pair(self, colluding: str, site: str) -> bytes:
        """The key of the mask between a colluding site, whose private key is known, and another."""
        offer = next(one for one in self.sum.round.offers().offers if one.site == site)
        secret = agreed(self.secrets[colluding].mask.private, bytes.fromhex(offer.mask_key))
        return mask_key(secret, CONTEXT, *sorted((colluding, site)))

    def sought(self) -> list[int]:
        values, counts, _ = expected(self.sum.answers[site] for site in self.fooled)
        return values + counts


def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites that do not care with whom their neighbours masked: as the protocol was before it had these signatures."""

    def require(known: Agreed, dealers: tuple[str, ...], told: Survivors) -> None:
        checks._require_part(known, told.survivors, dealers, "survivors-unknown")

    monkeypatch.setattr(steps, "require_survivors", require)


@pytest.mark.parametrize("case", CASES)
def test_control_where_nobody_asks_what_others_were_told_exact_values_are_found(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unasked(monkeypatch)
    attack = Attack(CASES[case])
    told = attack.survivors(lambda site: attack.masked[site].signature)
    revealed = attack.revealed(attack.confirmations(told))
    assert attack.opened(revealed) == attack.sought()
    assert len(attack.fooled) == 1 or not case.startswith("one-site")


@pytest.mark.parametrize("case", CASES)
def test_control_the_same_attacker_finds_nothing_where_all_were_told_the_same(case: str) -> None:
    """Seeds are known here too, and masks with colluding sites: those with the others are what is left."""
    attack = Attack(CASES[case], fooling=False)
    told = attack.survivors(lambda site: attack.masked[site].signature)
    opened = attack.opened(attack.revealed(attack.confirmations(told)))
    assert not set(opened) & set(attack.sought())


@pytest.mark.parametrize("case", CASES)
def test_colluding_sites_alone_cannot_put_a_seed_together(case: str) -> None:
    attack = Attack(CASES[case])
    assert all(len(attack.known(site)) < attack.circle.needed for site in attack.fooled)


def presented(attack: Attack) -> dict[str, Callable[[str], str | None]]:
    """What a coordinator could show as the signature of a site that did not sign."""
    right = dealers_message(CONTEXT, attack.digest, attack.all)
    earlier = dealers_message(dataclasses.replace(CONTEXT, round=CONTEXT.round - 1), attack.digest, attack.all)
    again = dealers_message(CONTEXT, "0" * 64, attack.all)
    fewer = dealers_message(CONTEXT, attack.digest, attack.shown)
    return {
        "what it signed": lambda site: attack.masked[site].signature,
        "none": lambda _: None,
        "another site's": lambda _: attack.masked[attack.colluding[0]].signature,
        "a colluding site's key": lambda _: key_of(attack.colluding[0]).sign(right).hex(),
        "the coordinator's key": lambda _: key_of("mallory").sign(right).hex(),
        "of an earlier round": lambda site: key_of(site).sign(earlier).hex(),
        "of other offers": lambda site: key_of(site).sign(again).hex(),
        "of the dealers it was told": lambda site: key_of(site).sign(fewer).hex(),
        "zeros": lambda _: "00" * 64,
    }


@pytest.mark.parametrize("case", CASES)
def test_every_honest_site_that_holds_a_share_refuses_whatever_is_shown_to_it_and_others_hold_none(case: str) -> None:
    attack = Attack(CASES[case])
    for signature in presented(attack).values():
        told = attack.survivors(signature)
        for site in attack.holders():
            assert code_of(lambda site=site, told=told: attack.sum.parties[site].confirm(CONTEXT, told)) == (  # type: ignore[misc]
                "dealers-differ"
            )
    far = set(attack.honest) - attack.holders()
    assert bool(far) == (attack.circle.needed < attack.circle.threshold), "on a complete graph there is nobody else"
    for site in far:
        attack.sum.parties[site].confirm(CONTEXT, attack.survivors(lambda site: attack.masked[site].signature))
        assert not set(attack.fooled) & set(attack.shares(site))


@pytest.mark.parametrize("case", CASES)
def test_what_was_refused_is_confirmed_when_all_have_signed_the_same(case: str) -> None:
    """The refusal is of the signatures, and of nothing else; and it cost the site nothing."""
    attack = Attack(CASES[case])
    bad = attack.survivors(lambda site: attack.masked[site].signature)
    right = dealers_message(CONTEXT, attack.digest, attack.all)
    good = attack.survivors(lambda site: key_of(site).sign(right).hex())
    for site in attack.holders():
        with pytest.raises(ConsiliumError):
            attack.sum.parties[site].confirm(CONTEXT, bad)
        attack.sum.parties[site].confirm(CONTEXT, good)


def test_on_a_complete_graph_within_its_threshold_too_few_could_confirm_even_if_nobody_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two thirds of seven are five: two groups of five have three sites in common, and only two collude."""
    unasked(monkeypatch)
    attack = Attack(Case(7, Threshold(), 5, (1, 3), 0))
    assert attack.circle.threshold == 5
    told = attack.survivors(lambda site: attack.masked[site].signature)
    assert code_of(lambda: attack.revealed(attack.confirmations(told))) == "confirmations-few"


@pytest.mark.parametrize("rule", [Threshold(), RING], ids=["complete", "ring"])
def test_one_dealer_more_or_less_is_other_dealers(rule: Threshold) -> None:
    """Every other site in turn was not told of one, who drops out; whoever holds its shares will not open its seed."""
    sites = tuple(sorted(names_of(11)))
    for fooled in sites[::2]:
        sum_ = Sum(answers_of(11), rule).until("deal")
        gone = sites[(sites.index(fooled) + 1) % len(sites)]
        left = tuple(site for site in sites if site != gone)
        received = sum_.round.received(fooled)
        dealt = tuple(one for one in received.dealt if one.dealer != gone)
        message = sum_.parties[fooled].mask(CONTEXT, Received(dealers=left, dealt=dealt))
        sum_.mask(site for site in left if site != fooled)
        signatures = {site: one.signature for site, one in sum_.masked.items()} | {fooled: message.signature}
        told = Survivors(survivors=left, signatures=signatures)
        holders = set(sum_.round._circle.holders[fooled]) & set(left)
        assert fooled in holders
        for site in holders:
            refused = code_of(lambda site=site, sum_=sum_, told=told: sum_.parties[site].confirm(CONTEXT, told))  # type: ignore[misc]
            assert refused == "dealers-differ"


def test_a_coordinator_that_is_told_a_lie_loses_one_site_and_no_sum() -> None:
    """The other way round: a site that signs other dealers, or nothing, is left out before anybody could refuse."""
    answers = answers_of(7)
    sum_, liar = Sum(answers).until("deal"), min(answers)
    rest = [site for site in answers if site != liar]
    sum_.mask(rest)
    honest = sum_.parties[liar].mask(CONTEXT, sum_.round.received(liar))
    said = dealers_message(CONTEXT, sum_.round.offers().sha256(), rest)
    for signature in ("", "00" * 64, sum_.masked[rest[0]].signature, key_of(liar).sign(said).hex()):
        false = dataclasses.replace(honest, signature=signature)
        assert code_of(lambda false=false: sum_.round.masked(liar, false)) == "dealers-unsigned"  # type: ignore[misc]
    sum_.confirm(rest)
    sum_.unmask(rest)
    assert found(sum_.round.total()) == expected(answers[site] for site in rest)
