"""What calls say, read from syntax trees: arguments by name or place, and texts as a page can show them."""

from __future__ import annotations

import ast


def argument(call: ast.Call, name: str, position: int | None) -> ast.expr | None:
    """The argument called ``name``, or else the one at ``position``; None where the call has neither."""
    named = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    if named is not None or position is None or not 0 <= position < len(call.args):
        return named
    return call.args[position]


def words(sentence: ast.expr | None) -> str:
    """A literal or an f-string as text, … for what is filled in; "" for anything else."""
    if isinstance(sentence, ast.Constant):
        return str(sentence.value).replace("|", "\\|")
    if isinstance(sentence, ast.JoinedStr):
        return "".join(words(part) if isinstance(part, ast.Constant) else "…" for part in sentence.values)
    if isinstance(sentence, ast.BinOp):
        return words(sentence.left)
    return ""
