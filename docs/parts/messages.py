"""Tables of the messages between coordinator and site, from ``shared/messages.py``.

Promises
- Every request and every reply of the protocol has a row, with all its fields and the types they have in the code.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from typing import get_args

from shared.messages import Reply, Request


def request_table() -> str:
    """What a coordinator asks."""
    return _table(get_args(Request))


def reply_table() -> str:
    """What a site answers."""
    return _table(get_args(Reply))


def _table(kinds: Iterable[type]) -> str:
    lines = ["| message | what it says | what it carries |", "|---|---|---|"]
    for kind in kinds:
        said = (inspect.getdoc(kind) or "").partition("\n")[0].replace("``", "`")
        carried = ", ".join(f"`{field.name}`: {field.type}" for field in dataclasses.fields(kind))
        lines.append(f"| **{kind.__name__}** | {said} | {carried.replace('|', 'or')} |")
    return "\n".join(lines) + "\n"
