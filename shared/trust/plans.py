"""A plan that the lead has signed: what hospitals approve, by its digest.

Promises
- A file that a plan names stays in the folder that it is looked for in, at the lead's and at every site.
- The plan stands in it as the one text that ``Plan.canonical_bytes`` makes, and its digest is that text's. Opening it
  reads the text again, and refuses one that this installation would write in another way: what is approved is what
  runs.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, ClassVar

from pydantic import Field

from shared.crypto.signing import SigningKey, VerifyKey
from shared.errors import PlanError, ProtocolError
from shared.plan import Plan, from_document
from shared.trust.documents import Digest, Document, Moment, opened, seal, stamp

_MOST_CHARACTERS = 2**18
_WEIGHTS = ".safetensors"


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


def weights_file(plan: Plan) -> PurePosixPath | None:
    """Where the weights that ``plan`` starts from lie, seen from the folder of the plan; None where it names none.

    Raises:
        PlanError: it names a file outside that folder, or none of weights ("weights-path").
    """
    if plan.model.pretrained is None:
        return None
    said = plan.model.pretrained.file
    path = PurePosixPath(said)
    if path.is_absolute() or ".." in path.parts or path.suffix != _WEIGHTS or "\\" in said or not said.isprintable():
        raise PlanError(
            "model.pretrained.file leads out of the folder of the plan, or is no .safetensors file",
            hint="ask the lead for a plan that names a file beside it",
            code="weights-path",
        )
    return path


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
