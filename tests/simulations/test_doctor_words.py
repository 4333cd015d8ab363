"""The report has words for each finding that a data doctor can make, and for no other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import client.data.doctor.findings as contract
from server.report.doctor import FINDINGS

FOLDER = Path(contract.__file__).parent
SEVERITIES = {"error", "warning", "note"}


def codes() -> Iterator[str]:
    """First arguments of calls whose second is a severity: how every check makes a finding."""
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and len(node.args) > 1:
                code, severity = node.args[:2]
                if isinstance(severity, ast.Constant) and severity.value in SEVERITIES:
                    yield from _literals(code)


def _literals(node: ast.expr) -> Iterator[str]:
    yield from (part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))


def test_the_words_are_those_of_the_findings_that_there_are() -> None:
    found = set(codes())
    assert len(found) > 30
    assert found == set(FINDINGS)
