"""The tree of errors, for every party.

Promises
- Each error is one sentence that says what happened, with the numbers, and a hint that says what to do.
- No error carries patient data: no names, no pixel values, no path that a patient's identifier could be part of.
  Cases are named by their position or by their salted identifier.
- ``code`` is stable and machine-readable; it is what may be counted, journalled and sent. The sentence is for people.

The tree::

    ConsiliumError
    ├── PlanError          the plan says something impossible or unknown
    ├── ModelError         a network cannot be built, or weights do not fit it
    ├── CaseError          one image, mask or label cannot be used: the case is quarantined, the site goes on
    ├── SiteDataError      too few usable cases: the site sits out, the run goes on
    ├── PolicyError        this hospital does not permit it, or its policy cannot be read
    ├── CapacityError      memory or disk does not suffice
    ├── BudgetError        patients would pay more privacy than the hospital's cap allows
    ├── ProtocolError      a message that cannot be trusted or understood: wrong digest, version, round, shape
    ├── UpdateRejected     an update that must not enter the sum: NaN, out of range, replayed, unknown site
    ├── FederationError    the federation folder, its roster or its keys do not permit it
    ├── RunError           the run as a whole cannot go on: below quorum, journal of another plan
    └── ScenarioError      a simulation is described wrongly
"""

from __future__ import annotations


class ConsiliumError(Exception):
    """Base of all errors that Consilium raises on purpose.

    Attributes:
        sentence: what happened, with the numbers; safe to log and to send.
        hint: what the reader can do about it; may be empty.
        code: stable machine-readable reason, for counting.
    """

    code = "error"

    def __init__(self, sentence: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint
        if code is not None:
            self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        """Cross process borders whole: the default would lose the keyword-only parts."""
        return (_rebuild, (type(self), self.sentence, self.hint, self.code))


def _rebuild(kind: type[ConsiliumError], sentence: str, hint: str, code: str) -> ConsiliumError:
    return kind(sentence, hint=hint, code=code)


class PlanError(ConsiliumError):
    """The plan says something impossible or unknown."""

    code = "plan"


class ModelError(ConsiliumError):
    """A network cannot be built, or weights do not fit it."""

    code = "model"


class CaseError(ConsiliumError):
    """One case cannot be used. It is quarantined under ``code``; the others go on."""

    code = "case"


class SiteDataError(ConsiliumError):
    """A site has too few usable cases for this plan; it sits out and the run goes on."""

    code = "site-data"


class PolicyError(ConsiliumError):
    """This hospital's policy does not permit what is asked, or cannot be read."""

    code = "policy"


class CapacityError(ConsiliumError):
    """Memory or disk does not suffice."""

    code = "capacity"


class BudgetError(ConsiliumError):
    """Patients of this site would pay more privacy than its cap allows; nothing was computed."""

    code = "budget"


class ProtocolError(ConsiliumError):
    """A message that cannot be trusted or understood."""

    code = "protocol"


class UpdateRejected(ConsiliumError):  # noqa: N818 - the protocol's own word for what happened
    """An update that must not enter the sum."""

    code = "update-rejected"


class FederationError(ConsiliumError):
    """The coordinator's folder, its roster or its keys do not permit what is asked."""

    code = "federation"


class RunError(ConsiliumError):
    """The run as a whole cannot go on."""

    code = "run"


class ScenarioError(ConsiliumError):
    """A simulation is described wrongly."""

    code = "scenario"
