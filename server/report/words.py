"""What a run found, in sentences for the people who treat the patients.

Promises
- Every number in a sentence stands in ``results.json``; every comparison says what it compares with, and on whom.
- Nothing is called better or worse than chance allows: beside a difference stands the interval it must be read against.
- What is not protected is said as plainly as what is, and no promise without what it assumes of other sites.
"""

from __future__ import annotations

from server.report.arms import Arm, arms_of, single_sites
from server.report.metrics import LEVEL, interval, label, number
from server.report.run import Run, sites_of
from server.shared_noise import assumption
from shared.plan import Plan
from shared.privacy.terms import share_of

IMAGES = {
    "ct": "CT images",
    "mr": "MR images",
    "us": "ultrasound images",
    "xray": "radiographs",
    "fundus": "fundus photographs",
}
_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_MOST_NAMES = 8


def title(plan: Plan) -> str:
    """The plan's name as a heading."""
    words = plan.plan.name.replace("-", " ")
    return words[0].upper() + words[1:]


def summary(run: Run) -> list[str]:
    """The run in a paragraph: what to hold the headline number against, where it is weakest, who was missing."""
    sentences = [_alone(run), _central(run), _personalised(run), _worst(run), _withheld(run), _missing(run)]
    return [sentence for sentence in sentences if sentence]


def lead(run: Run) -> list[str]:
    """The run in two or three sentences: who, what, and the headline number."""
    return [_who(run), _headline(run)]


def goal(plan: Plan) -> str:
    """What the network learns to do, as an infinitive."""
    classes, images = [f"“{name}”" for name in plan.data.classes], IMAGES.get(plan.data.modality, "images")
    if plan.plan.task == "segmentation":
        return f"to outline {_listed(classes[1:])} on {images}"
    if plan.plan.task == "classification" and plan.data.labels == "exclusive":
        return f"to tell {_listed(classes)} apart on {images}"
    if plan.plan.task == "classification":
        return f"to recognise {_listed(classes)} on {images}"
    return f"for {plan.plan.task} on {images}"


def privacy(run: Run) -> list[str]:
    """What is promised to a patient of this run, and what is not."""
    return [_guarantee(run), _sums(run.plan), _released(run.plan)]


def doctor(run: Run) -> str:
    """How many sites' data were looked at before training, and at how many there was something; may be empty."""
    looked = [site for site in run.results.data.values() if site.cohort]
    if not looked:
        return ""
    severities = [{noted.severity for noted in site.doctor.values()} for site in looked]
    errors, warnings = (sum(level in found for found in severities) for level in ("error", "warning"))
    return (
        f"Before training, a data doctor looked through the images of {_count(len(looked), 'site')}, and each of them "
        f"froze its cohort. It found errors at {_count(errors, 'site')} and warnings at {_count(warnings, 'site')}."
    )


def _who(run: Run) -> str:
    plan, sites = run.plan, run.sites
    who = _count(len(sites), "site").capitalize() if sites else "The sites"
    if 0 < len(sites) <= _MOST_NAMES:
        who += f" ({_listed(sites)})"
    rounds = _count(len(run.results.participation) or plan.plan.rounds, "round")
    return f"{who} trained one network together, in {rounds}, {goal(plan)}. The images stayed at their site."


def _headline(run: Run) -> str:
    pooled = run.pooled
    about = "about" if run.noised else "the"
    patients = f"{about} {pooled.n_patients} test patients" if pooled.n_patients else "the test patients"
    name = label(run.headline)
    if not pooled.determined:
        return f"On {patients} of all sites, {name} could not be determined."
    bounds = f" ({LEVEL} {interval(run.headline, pooled)})" if pooled.has_interval else ""
    return f"On {patients} of all sites the shared model's {name} is {number(run.headline, pooled.value)}{bounds}."


def _alone(run: Run) -> str:
    local = [arm for arm in single_sites(run) if arm.measure(run.headline).determined]
    if not local:
        return ""
    best, worst = local[0], local[-1]
    if best is worst:
        return f"On the same patients, {_reached(run, best)}."
    return (
        f"A network trained at one site alone reaches, on the same patients, between {_value(run, worst)} "
        f"({worst.name.removesuffix(' alone')}) and {_value(run, best)} ({best.name.removesuffix(' alone')})."
    )


def _central(run: Run) -> str:
    arm = _arm(run, "central")
    if arm is None:
        return ""
    value, pooled = arm.measure(run.headline).value, run.pooled
    place = ""
    if pooled.has_interval:
        inside = pooled.low <= value <= pooled.high
        place = ", inside the shared model's interval" if inside else ", outside the shared model's interval"
    return f"Training on all data in one room, which would move the images, reaches {_value(run, arm)}{place}."


def _personalised(run: Run) -> str:
    arm = _arm(run, "personalised")
    if arm is None:
        return ""
    return f"After a few more steps at home, each site's own model reaches {_value(run, arm)} on that site's patients."


def _worst(run: Run) -> str:
    worst = (run.results.final.get("worst") or {}).get(run.headline)
    if not worst or worst.get("value") is None:
        return ""
    return f"The shared model is weakest at {worst['site']}, with {number(run.headline, worst['value'])}."


def _withheld(run: Run) -> str:
    if sites_of(run.results.final):
        return ""
    return "Numbers of single sites were not released, so how much sites differ is not known."


def _missing(run: Run) -> str:
    entries = run.results.participation
    incomplete = sum(bool(entry.missing) for entry in entries)
    if not entries:
        return ""
    if not incomplete:
        return "Every site took part in every round."
    return f"In {incomplete} of {len(entries)} rounds at least one site was missing."


def _guarantee(run: Run) -> str:
    private = run.plan.privacy
    if private.unit == "none":
        return (
            "There is no differential privacy in this run. Images did not leave their site, but nothing bounds what "
            "the trained model, or an update on its way, may reveal about a single patient."
        )
    spent = run.results.privacy.values()
    said = (
        f"The model is differentially private with respect to one patient with all their images: planned "
        f"ε = {private.epsilon:g} at δ = {private.delta:g}, at each site."
    )
    said += _assumed(run)
    if spent:
        said += " The table shows what was spent."
    if any(str(entry.get("noise", "")).startswith("unsafe") for entry in spent):
        said += (
            " The noise of this simulation came from a seeded generator: the numbers are an exercise, not a guarantee."
        )
    return said


def _assumed(run: Run) -> str:
    """Of how many sites' noise the promise is made, and what is left if all others collude; empty for own noise."""
    share = share_of(run.plan)
    if share is None:
        return ""
    entries = [entry for entry in run.results.privacy.values() if entry.get("shared")]
    paid = [(entry.get("epsilon"), entry["shared"].get("epsilon_alone")) for entry in entries]
    if not paid or any(number is None for pair in paid for number in pair):
        return f" {assumption(share)} If all other sites collude, less of it is left."
    kept, alone = (max(numbers) for numbers in zip(*paid, strict=True))
    return f" {assumption(share)} A patient has then paid at most ε = {kept:.4g}, and ε = {alone:.4g} if all other " + (
        "sites collude."
    )


def _sums(plan: Plan) -> str:
    if plan.secure_aggregation.enabled:
        least = plan.secure_aggregation.threshold
        over = f"sums over {least} sites or more" if least else "sums over at least two thirds of the sites"
        return f"Updates and statistics were masked: of each question the coordinator read {over}, and no other sum."
    return "Updates were not masked: the coordinator could see those of a single site."


def _released(plan: Plan) -> str:
    return {
        "sum": "Only sums over all sites were released for the metrics, without noise.",
        "site": "Each site released its own metrics, without noise.",
        "dp": "Metrics were released with noise, which the ledger has paid for.",
    }[plan.evaluation.release]


def _arm(run: Run, kind: str) -> Arm | None:
    found = (arm for arm in arms_of(run) if arm.kind == kind and arm.measure(run.headline).determined)
    return next(found, None)


def _reached(run: Run, arm: Arm) -> str:
    return f"a network trained at {arm.name} reaches {_value(run, arm)}"


def _value(run: Run, arm: Arm) -> str:
    return number(run.headline, arm.measure(run.headline).value)


def _count(amount: int, noun: str) -> str:
    word = _SMALL[amount] if amount < len(_SMALL) else str(amount)
    return f"{word} {noun}" + "s" * (amount != 1)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else "".join(names)
