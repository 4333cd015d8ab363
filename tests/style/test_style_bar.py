"""The bar of the style guide, measured with ``ast`` so that it cannot rot."""

import ast
import io
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("client", "server", "shared", "simulations")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions() -> Iterator[tuple[Path, Function]]:
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            if isinstance(node, Function):
                yield path, node


def body_lines(function: Function) -> int:
    """Lines of the function without its docstring: explaining oneself is free."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_there_is_something_to_measure() -> None:
    assert len(SOURCES) > 30
    assert len(TESTS) > 20


def test_no_function_is_longer_than_60_lines() -> None:
    assert [f"{path}:{node.name}" for path, node in functions() if body_lines(node) > 60] == []


def test_half_of_the_functions_have_at_most_9_lines_and_95_percent_at_most_36() -> None:
    lengths = [body_lines(node) for _, node in functions()]
    assert statistics.median(lengths) <= 9
    assert statistics.quantiles(lengths, n=20)[-1] <= 36


def test_no_module_is_longer_than_400_lines_and_half_have_at_most_150() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert [str(path) for path, length in lengths.items() if length > 400] == []
    assert statistics.median(lengths.values()) <= 150


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_says_what_it_is(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module), "the module promises nothing"
    silent = [
        node.name
        for node in ast.walk(module)
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_") and is_public(module, node)
        if not ast.get_docstring(node)
    ]
    assert silent == []


def is_public(module: ast.Module, node: Function | ast.ClassDef) -> bool:
    """Defined at module level, or a method of a public class; nested functions are private by nature."""
    owners = [owner for owner in ast.walk(module) if isinstance(owner, ast.ClassDef) and node in owner.body]
    return node in module.body or any(not owner.name.startswith("_") for owner in owners)


def test_nothing_inherits_from_our_own_classes_beyond_one_level() -> None:
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
    }

    def depth(name: str) -> int:
        return 1 + max((depth(base) for base in bases[name] if base in bases), default=-1)

    assert [name for name in bases if depth(name) > 1] == []


def test_the_tests_are_at_least_1_3_times_as_long_as_the_source() -> None:
    def count(paths: list[Path]) -> int:
        return sum(1 for path in paths for line in path.read_text(encoding="utf-8").splitlines() if line.strip())

    ratio = count(TESTS) / count(SOURCES)
    assert ratio >= 1.3, f"{ratio:.2f}"


def test_reasons_are_given_in_8_to_50_of_100_lines_and_at_most_12_of_them_are_comments() -> None:
    """Reasons stand in docstrings here, where readers of a module and of its help find them; comments are the rest."""
    comments = docstrings = lines = 0
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline)]
        comments += kinds.count(tokenize.COMMENT)
        docstrings += sum(docstring_lines(node) for node in ast.walk(tree(path)))
        lines += sum(1 for line in text.splitlines() if line.strip())
    assert 100 * comments / lines <= 12
    assert 8 <= 100 * (comments + docstrings) / lines <= 50


def docstring_lines(node: ast.AST) -> int:
    """Lines of a string that stands alone: the docstring of a module, class, function or constant."""
    alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return (node.end_lineno or 0) - node.lineno + 1 if alone else 0  # type: ignore[attr-defined]
