"""A plan that the lead has signed: what hospitals approve, by its digest.

Promises
- The plan stands in it as the one text that ``Plan.canonical_bytes`` makes, and its digest is that text's. Opening it
  reads the text again, and refuses one that this installation would write in another way: what is approved is what
  runs.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import Field

from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import ProtocolError
from shared.plan import Plan, from_document
from shared.trust.documents import Digest, Document, Moment, opened, seal, stamp

_MOST_CHARACTERS = 2**18


class SignedPlan(Document):
    """A plan's text, its digest, and when it was signed."""

    kind: ClassVar[str] = "plan"
    most_bytes: ClassVar[int] = 2**20

    plan: Annotated[str, Field(max_length=_MOST_CHARACTERS)]
    digest: Digest
    created: Moment


def sign_plan(plan: Plan, key: SigningKey, now: datetime) -> bytes:
    """The file of a signed plan."""
    return seal(SignedPlan(plan=plan.canonical_bytes().decode(), digest=plan.digest(), created=stamp(now)), key)


def open_plan(content: bytes, lead: VerifyKey) -> Plan:
    """The plan of a file that ``lead`` has signed.

    Raises:
        ProtocolError: it is not signed by the lead, its digest is another text's ("plan-digest"), or this
            installation would write it in another way ("plan-version").
        PlanError: it says something impossible.
    """
    signed = opened(content, SignedPlan, lead)
    text = signed.plan.encode()
    if hashlib.sha256(text).hexdigest() != signed.digest:
        raise ProtocolError(
            "the digest beside this plan is that of another", hint="ask the lead to sign it again", code="plan-digest"
        )
    plan = from_document(_document(text))
    if plan.canonical_bytes() != text:
        raise ProtocolError(
            f"this installation reads plan {signed.digest[:12]} as another plan, {plan.digest()[:12]}",
            hint="install the version of Consilium that the lead uses",
            code="plan-version",
        )
    return plan


def _document(text: bytes) -> dict[str, object]:
    try:
        found = json.loads(text.partition(b"\n")[2])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ProtocolError(
            "the text of this signed plan is no plan", hint="ask the lead to sign it again", code="plan-text"
        )
    return found
