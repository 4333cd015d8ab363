"""Whether a policy permits a plan, a time and a sender.

Promises
- Whoever is refused reads which key with which value refuses, what was asked, and what to do.
- What is not known permits nothing: ``judge`` and ``require`` refuse a plan where a rule lacks a fact. ``verdicts``
  tells the two apart, for people who look before everything is known.
- That a rule about patients permits or refuses is one bit about private data, which differential privacy does not
  cover. So plans are judged when people at the site approve them, once, and not for whoever sends requests.

The ledger has the last word on budgets: here, only what the caller computed is compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from client.governance.hours import DAYS
from client.governance.policy import FILE, Policy
from client.governance.rules import RULES, Against, Facts, Unknown
from shared.errors import PolicyError
from shared.plan import Plan


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal: the rule as it is spelled in the file, one sentence, and a hint."""

    rule: str
    sentence: str
    hint: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule says about a plan; ``reason`` and ``hint`` are empty where it permits.

    Attributes:
        rule: its key, such as "privacy.min_patients".
        setting: the line of the policy, such as "[privacy] min_patients = 20".
        outcome: "unknown" where a fact is missing.
        reason: why it refuses, or what is not known.
        hint: what to do.
    """

    rule: str
    setting: str
    outcome: Literal["permits", "refuses", "unknown"]
    reason: str = ""
    hint: str = ""

    def refusal(self) -> Refusal:
        """The same as a refusal, which a permission is not."""
        said = "refuses this plan" if self.outcome == "refuses" else "cannot be judged"
        return Refusal(self.rule, f"{FILE} {self.setting} {said}: {self.reason}", self.hint)


def verdicts(policy: Policy, plan: Plan, facts: Facts) -> tuple[Verdict, ...]:
    """What each rule says, in the order of the table."""
    return tuple(_verdict(name, rule(plan, facts, policy), policy) for name, rule in RULES.items())


def judge(policy: Policy, plan: Plan, facts: Facts) -> tuple[Refusal, ...]:
    """Everything that stands against the plan, missing facts included; empty where it is permitted."""
    return tuple(one.refusal() for one in verdicts(policy, plan, facts) if one.outcome != "permits")


def require(policy: Policy, plan: Plan, facts: Facts) -> None:
    """Return where the policy permits the plan; raise ``PolicyError`` with the first refusal where it does not."""
    require_none(judge(policy, plan, facts))


def require_none(refusals: tuple[Refusal, ...]) -> None:
    """Raise ``PolicyError`` with the first of ``refusals``, if there is one, and how many there are."""
    if not refusals:
        return
    first, rules = refusals[0], len(refusals)
    others = f" ({rules} rules refuse it in all)" if rules > 1 else ""
    raise PolicyError(f"{first.sentence}{others}", hint=first.hint)


def permits_now(policy: Policy, at: datetime) -> Refusal | None:
    """None where a round may begin at ``at``, a time with a zone."""
    hours = policy.hours
    if hours.open_at(at):
        return None
    shown = hours.local(at)
    clock = f"{DAYS[shown.weekday()]} {shown:%H:%M}"
    return Refusal(
        rule="hours.windows",
        sentence=f"{FILE} [hours] windows refuses this time: it is {clock} in {hours.zone}",
        hint=f"permitted: {', '.join(map(str, hours.windows))}",
    )


def permits_sender(policy: Policy, sender: str, enrolled: str | None = None) -> Refusal | None:
    """None where the key with the fingerprint ``sender`` may ask: one of the policy's, else the ``enrolled`` one."""
    leads = policy.who.leads or ((enrolled,) if enrolled else ())
    if sender in leads:
        return None
    reason = f"it is none of the {len(leads)} keys that may ask" if leads else "this site has enrolled with no lead"
    return Refusal(
        rule="who.leads",
        sentence=f"{FILE} [who] leads refuses this sender: {reason}",
        hint="compare the key's fingerprint with the lead's by telephone before adding it to leads",
    )


def _verdict(rule: str, found: Against | Unknown | None, policy: Policy) -> Verdict:
    setting = _setting(rule, policy)
    match found:
        case None:
            return Verdict(rule, setting, "permits")
        case Against(reason, hint):
            return Verdict(rule, setting, "refuses", reason, hint)
        case Unknown(fact):
            return Verdict(rule, setting, "unknown", f"it is not known {fact}")


def _setting(rule: str, policy: Policy) -> str:
    """The line of the file, such as ``[privacy] delta = 1e-05``."""
    section, _, key = rule.partition(".")
    return f"[{section}] {key} = {_toml(getattr(getattr(policy, section), key))}"


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:.12g}"
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return f'"{value}"'
