"""What the attacks found, in sentences for people who sit on an ethics board.

Promises
- Every number in a sentence stands in ``attack.json``. A success is told beside what guessing would reach, and a
  failure beside what no attack could exceed: one attack that fails proves nothing about the next.
- What was attacked, and what was not, is said on the page.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulations.attacks.arms import epsilon_of
from simulations.attacks.bounds import most_tpr
from simulations.attacks.findings import ArmFound, Comparison, Network
from simulations.attacks.likeness import Likeness

_ALIKE = 0.5
"""SSIM from which a picture is called the patient's image."""
_ALL = 99.5
"""Of 100 members, from which a bound is no bound."""
_NEARER_DB = 1.0
"""By how much a picture must be nearer the truth than the guess before it is called so."""


def lead(found: Comparison) -> tuple[str, str, str]:
    """Three sentences: who is recognised without privacy, who with it, and what an update gives away."""
    return _without(found), _with(found), _pictures(found)


def control(found: Comparison) -> str:
    """Whether the attacks work at all."""
    (arm,) = found.of_kind("control")
    best = max(arm.attacks.values(), key=lambda success: success.auc.value)
    if best.auc.low > 0.5:
        return (
            f"The attacks work: of models that were overfitted on purpose they tell members from strangers with an AUC "
            f"of {best.auc.value:.2f} ({best.auc.low:.2f} to {best.auc.high:.2f}; guessing gives 0.50)."
        )
    return (
        "The attacks failed their control: even of models that were overfitted on purpose they recognise nobody (AUC "
        f"{best.auc.value:.2f}, {best.auc.low:.2f} to {best.auc.high:.2f}). "
        "What they do not find elsewhere says nothing."
    )


def proven(found: Comparison) -> list[str]:
    """What the likelihood ratio proves about epsilon, arm by arm."""
    return [_proven(arm) for arm in found.arms if arm.arm.kind != "control"]


def own_network(found: Comparison) -> str:
    """What the plan's own network gives away, beside the small one."""
    pair = found.likeness("plan", "plain")
    if pair is None:
        return ""
    kept = _verdict(*pair) == _NOTHING
    told = "keeps the image to itself" if kept else "gives the image away too"
    caution = " That is luck of its architecture and of this attack, and nobody promises it." if kept else ""
    alike = f"SSIM {two_decimals(pair[0].ssim)}"
    return f"Without privacy, the plan's own network at its first weights {told} ({alike}).{caution}"


def limits(found: Comparison) -> tuple[str, ...]:
    """What the page does not show."""
    return (
        "Two attacks on membership and one on gradients were tried. Others may do better: what holds for all of them "
        "is the bound, and it holds only where training is private.",
        f"A model here is trained on about {round(found.patients / 2)} patients of one party, alone. In a federation "
        "the coordinator sees more than the last model, and other hospitals' patients are there to hide among.",
        "Noise and coins follow from a seed here, so that the comparison can be repeated. At a hospital they come from "
        "a cryptographic generator.",
        "Models of so few patients learn little, and with privacy less: what privacy costs in quality is to be read "
        "from runs with as many patients as the hospitals have.",
        "The proven ε takes guesses about patients of one model as independent, which they nearly are.",
    )


def best_at_10(arm: ArmFound) -> float:
    """Of 100 members, how many the better attack finds when it accuses 10 of 100 strangers."""
    return 100 * max(success.tpr_at_10 for success in arm.attacks.values())


def two_decimals(value: float) -> str:
    """The number as text; what rounds to nothing has no sign."""
    return f"{round(value, 2) + 0.0:.2f}"


_BACK, _NEARER, _NOTHING = "the image comes back", "a picture nearer than a guess comes back", "no picture comes back"


def _verdict(found: Likeness, guess: Likeness) -> str:
    if found.ssim >= _ALIKE and found.psnr_db > guess.psnr_db + _NEARER_DB:
        return _BACK
    return _NEARER if found.psnr_db > guess.psnr_db + _NEARER_DB else _NOTHING


def _without(found: Comparison) -> str:
    (plain,) = found.of_kind("plain")
    return (
        "An attacker who holds a model trained without privacy, and accepts accusing 10 of 100 strangers, recognises "
        f"{best_at_10(plain):.0f} of 100 patients that it was trained on; guessing would recognise 10."
    )


def _with(found: Comparison) -> str:
    private = found.of_kind("private")
    told = [f"{best_at_10(arm):.0f} with {_epsilon(arm)}" for arm in private]
    limited = [f"{_most_at_10(arm):.0f} with {_epsilon(arm)}" for arm in private if _most_at_10(arm) < _ALL]
    unlimited = [_epsilon(arm) for arm in private if _most_at_10(arm) >= _ALL]
    promised = [f"no attack whatever can exceed {_listed(limited)}"] if limited else []
    promised += [f"the promise of {_listed(unlimited)} by itself rules no attack out"] if unlimited else []
    return f"With privacy the same attacker recognises {_listed(told)}; {', and '.join(promised)}."


def _pictures(found: Comparison) -> str:
    private = found.of_kind("private")
    network: Network = "small"
    plain, kept = found.likeness(network, "plain"), found.likeness(network, private[0].arm.name)
    if plain is None or kept is None:
        return "No image was looked for in a gradient."
    return (
        "From what one patient adds to the first update of a small network without privacy, "
        f"{_verdict(*plain)} (SSIM {two_decimals(plain[0].ssim)}; 1 is the same image); "
        f"from what training with {_epsilon(private[0])} lets out, {_verdict(*kept)} ({two_decimals(kept[0].ssim)}; "
        f"a guess without any gradient has {two_decimals(kept[1].ssim)})."
    )


def _proven(arm: ArmFound) -> str:
    claim = f"{arm.arm.promise.epsilon:g}" if arm.arm.promise else "no ε"
    if not arm.proof.epsilon:
        return f"{arm.arm.title}: {claim} claimed, nothing proven."
    basis = f"{arm.proof.hits} of {arm.proof.members} found, {arm.proof.false_alarms} of {arm.proof.strangers} accused"
    return f"{arm.arm.title}: {claim} claimed, at least {arm.proof.epsilon:.2f} proven ({basis})."


def _most_at_10(arm: ArmFound) -> float:
    assert arm.arm.promise is not None  # noqa: S101 - only private arms come here
    return 100 * float(most_tpr(np.array([0.1]), arm.arm.promise)[0])


def _epsilon(arm: ArmFound) -> str:
    assert arm.arm.promise is not None  # noqa: S101 - only private arms come here
    return epsilon_of(arm.arm.promise)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
