"""What people read before they approve a plan, in plain words: what is trained, leaves, is paid, and with whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from client.commands.approve import Cost, Offer
from client.governance.approvals import Listed
from client.governance.rules import releases
from client.terminal import listing
from shared.fixed_point import peak
from shared.plan import Plan
from shared.secure.ring import bits_for
from shared.secure.threshold import needed, tolerated

if TYPE_CHECKING:
    from rich.console import RenderableType

_RELEASES = {
    "dp": "counts about validation and test patients, with noise",
    "sum": "exact counts about validation and test patients, meant to be added up over sites",
    "site": "exact counts about validation and test patients of this site alone",
}


def shown(offer: Offer, served: int) -> Iterator[RenderableType]:
    """An offer for people; ``served`` is how many runs of the plan were served before."""
    plan = offer.plan
    yield f"plan {plan.plan.name}, {plan.digest()}\nsigned by the lead of {offer.pinned.federation}, {_lead(offer)}"
    yield listing(("", "what you would let happen"), list(_rows(offer, served)))


def document(offer: Offer, served: int) -> dict[str, object]:
    """The same for programs."""
    plan = offer.plan
    return {
        "plan": {"name": plan.plan.name, "digest": plan.digest(), "task": plan.plan.task, "rounds": plan.plan.rounds},
        "network": {"name": plan.model.name, "parameters": offer.parameters},
        "dataset": offer.wanted.dataset,
        "cohort": offer.cohort,
        "patients": dict(offer.patients),
        "runs": offer.wanted.runs,
        "runs_before": served,
        "leaves": {
            "updates": plan.plan.rounds,
            "bits": bits(plan),
            "bytes": _update_bytes(offer),
            "release": _how(plan),
            "measurements": releases(plan, len(_active(offer))),
            "own_model": plan.evaluation.cross_site,
        },
        "cost": asdict(offer.cost) if offer.cost else None,
        "noise": {"whose": plan.privacy.noise, "colluding_sites": plan.privacy.colluding_sites} if offer.cost else None,
        "federation": offer.pinned.federation,
        "sites": list(_active(offer)),
    }


def listed(found: Sequence[Listed]) -> Iterator[RenderableType]:
    """All approvals for people."""
    if not found:
        yield "Nothing was approved at this site yet."
        return
    header = ("plan", "digest", "data set", "cohort", "runs", "state", "by", "when")
    yield listing(header, [_row(one) for one in found])


def listed_document(found: Sequence[Listed]) -> list[dict[str, object]]:
    """The same for programs."""
    return [asdict(one) for one in found]


def bits(plan: Plan) -> int:
    """Of each number of an update."""
    return plan.aggregation.fixed_point.bits


def _row(one: Listed) -> tuple[str, ...]:
    runs = f"{one.served} of {one.runs}"
    return (one.name, one.digest[:12], one.dataset, one.cohort[:12], runs, one.state, one.by, one.at)


def _rows(offer: Offer, served: int) -> Iterator[tuple[str, str]]:
    plan, patients = offer.plan, offer.patients
    yield "trains", f"a {plan.model.name} network for {plan.plan.task}, {offer.parameters:,} parameters"
    yield "for", f"{plan.plan.rounds} rounds of {plan.training.steps} steps, in {_number(offer.wanted.runs, 'run')}"
    if served:
        yield "before", f"{_number(served, 'run')} of this plan asked here already"
    yield "on", f"{_number(patients['train'], 'patient')} of {offer.wanted.dataset}, cohort {offer.cohort[:12]}"
    yield (
        "measures on",
        f"{_number(patients['validation'], 'patient')} for validation, {_number(patients['test'], 'patient')} to test",
    )
    yield (
        "leaves",
        f"each round an update: {offer.parameters:,} numbers of {bits(plan)} bits, {_size(_update_bytes(offer))}"
        + _noised(offer),
    )
    times = _number(releases(plan, len(_active(offer))), "time")
    yield "leaves", f"{times} in each run: {_RELEASES[_how(plan)]}"
    if plan.evaluation.cross_site:
        yield "leaves", _OWN_MODEL
    yield "is seen", _seen(plan, len(_active(offer)))
    if plan.privacy.noise == "shared":
        yield "hides", _shared(plan)
    yield from (("costs", sentence) for sentence in (_costs(offer.cost, plan) if offer.cost else _NO_PROTECTION))
    yield "takes part", f"{_number(len(_active(offer)), 'site')}: {', '.join(_active(offer))}"


def _seen(plan: Plan, sites: int) -> str:
    """Whether the coordinator can read what this site sends."""
    if not plan.secure_aggregation.enabled:
        return "by the coordinator, number by number"
    least = needed(plan.secure_aggregation, plan.participation.quorum, sites)
    others = sites - 1
    colluding = min(tolerated(least, sites), others)
    unless = (
        f"no more than {colluding} of the other {others} tell" if colluding else f"none of the other {others} tells"
    )
    return (
        f"under masks: the coordinator reads sums over {least} sites or more, and nothing of this site alone, as "
        f"long as {unless} it what they know"
    )


_OWN_MODEL = (
    "once in each run: THIS SITE'S OWN MODEL, fine-tuned on its patients alone, exact. The coordinator keeps it and "
    "sends it to all other sites, which measure it; theirs are measured here"
)
_NO_PROTECTION = (
    "NO PROTECTION: what leaves may show who was trained on, and parts of their images can be reconstructed from it",
    "nothing in the ledger, and nothing can be taken back",
)


def _noised(offer: Offer) -> str:
    if offer.cost is None:
        return ", exact"
    return ", with noise" if offer.plan.privacy.noise == "own" else ", with a part of the noise that sites share"


def _shared(plan: Plan) -> str:
    """What hides patients where no site adds all of the noise."""
    return (
        f"noise that sites share: each adds a part, and the sum of the parts hides patients, as long as "
        f"{_assumed(plan)}. To collude is to tell the coordinator one's part, or to add none"
    )


def _assumed(plan: Plan) -> str:
    match plan.privacy.colluding_sites or 0:
        case 0:
            return "none of the other sites colludes"
        case 1:
            return "at most 1 of the other sites colludes"
        case more:
            return f"at most {more} of the other sites collude"


def _costs(found: Cost, plan: Plan) -> Iterator[str]:
    paid = f"a patient pays at most epsilon {found.plan:.4g} at delta {found.delta:g} for all of it"
    if found.alone is None:
        yield paid
    else:
        yield f"{paid}, as long as {_assumed(plan)}"
        yield f"a patient pays at most epsilon {found.alone:.4g} for all of it if all other sites collude"
    yield f"who has paid most has paid {found.before:.4g} so far, and {found.after:.4g} of {found.cap:g} afterwards"
    rounds = _number(found.rounds_left, "more round")
    yield f"{found.cap - found.after:.4g} would be left, enough for {rounds} like these"


def _update_bytes(offer: Offer) -> int:
    return offer.parameters * _width(offer.plan, len(_active(offer))) // 8


def _width(plan: Plan, sites: int) -> int:
    """Bits of each number on its way."""
    if not plan.secure_aggregation.enabled:
        return bits(plan)
    aggregation = plan.aggregation
    return bits_for(peak(aggregation.fixed_point), sum(aggregation.public_weights.values()) or sites)


def _how(plan: Plan) -> str:
    return plan.evaluation.release


def _lead(offer: Offer) -> str:
    return offer.pinned.lead.fingerprint()


def _active(offer: Offer) -> list[str]:
    return [one.site for one in offer.pinned.roster.sites if one.state == "active"]


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)
