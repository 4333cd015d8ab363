"""The documentation says what the code does: help texts, generated parts, links, names, versions."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from docs import build
from docs.parts import keys, reasons
from shared.plan import Plan, parse
from simulations import scenario

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {".py", ".md", ".toml", ".txt", ".svg", ".css", ".j2", ".json", ".html", ".yml", ".yaml", ""}
COMMANDS = (("consilium-sim",), ("consilium-sim", "run"), ("consilium-site",), ("consilium-server",))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings as GitHub makes them: lower case, punctuation gone, spaces to hyphens."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout, so nothing says which files are tracked")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


# --- help texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_readme_shows_the_help_that_a_command_prints_at_80_columns(command: tuple[str, ...]) -> None:
    environment = {"COLUMNS": "80", "TERM": "dumb", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    script = Path(sys.executable).with_name(command[0])
    printed = subprocess.run(
        [script, *command[1:], "--help"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    part = re.search(
        rf"<!-- generated: help {' '.join(command)} -->\n```text\n(.*?)\n```\n<!-- end -->", readme(), re.S
    )
    assert part is not None
    assert part[1] == printed.rstrip()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_help_text_fits_on_one_screen(command: tuple[str, ...]) -> None:
    lines = build.help_of(*command).splitlines()[1:-1]
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


def readme() -> str:
    return text_of(ROOT / "README.md")


def test_the_readme_names_every_command_that_there_is() -> None:
    scripts = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["scripts"]
    assert {command[0] for command in COMMANDS} == set(scripts)


# --- generated parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", build.pages(), ids=name_of)
def test_generated_parts_are_current(page: Path) -> None:
    assert build.filled(text_of(page)) == text_of(page), "run: make docs"


def test_every_part_that_can_be_generated_stands_on_exactly_one_page() -> None:
    used = [name for page in build.pages() for name in re.findall(r"<!-- generated: (.+?) -->", text_of(page))]
    assert sorted(used) == sorted(build.PARTS)


def test_a_part_that_nobody_makes_is_an_error() -> None:
    with pytest.raises(KeyError, match="weather"):
        build.filled("<!-- generated: weather -->\n<!-- end -->")


def test_what_stands_outside_a_part_is_left_alone_and_what_stands_inside_is_replaced() -> None:
    page = "before\n<!-- generated: networks -->\nstale\n<!-- end -->\nafter\n"
    assert build.filled(page) == f"before\n<!-- generated: networks -->\n{keys.network_table()}<!-- end -->\nafter\n"


def leaves(document: dict[str, object]) -> Iterator[str]:
    for name, value in document.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in leaves(value))


@pytest.mark.parametrize("name", scenario.names())
def test_plan_md_describes_every_key_of_every_scenario_under_its_section(name: str) -> None:
    sections = dict(re.findall(r"### \[(\w+)\]\n(.*?)(?=\n### |\n## |\Z)", text_of(ROOT / "docs/plan.md"), re.S))
    document = scenario.load(name).plan.model_dump(mode="json", exclude_none=True)
    for section, table in document.items():
        described = set(re.findall(r"^\| `([\w.]+)`", sections[section], re.M))
        unknown = {key for key in leaves(table) if not key.endswith("kind")} - described
        assert not {key for key in unknown if not key.startswith(("public_weights.", "public_patients."))}


def test_plan_md_gives_a_default_exactly_where_the_plan_has_one() -> None:
    """The oracle is the model itself: a required field of pydantic is a required key of the page."""
    page = text_of(ROOT / "docs/plan.md")
    for section, field in Plan.model_fields.items():
        (model,) = (kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None))
        for key, one in model.model_fields.items():
            (row,) = re.findall(rf"^\| `{key}` \|.*$", part_of(page, section), re.M)
            assert ("**required**" in row) == one.is_required(), f"{section}.{key}"


def part_of(page: str, section: str) -> str:
    found = re.search(rf"### \[{section}\]\n(.*?)(?=\n### |\n<!-- end -->)", page, re.S)
    assert found is not None
    return found[1]


def test_a_meaning_without_a_key_and_a_key_without_a_meaning_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = text_of(keys.MEANINGS)
    changed = tmp_path / "keys.toml"
    monkeypatch.setattr(keys, "MEANINGS", changed)
    changed.write_text(whole.replace("[training]\n", '[training]\nstepps = "Misspelt."\n'), encoding="utf-8")
    with pytest.raises(KeyError, match="stepps"):
        keys.plan_tables()
    changed.write_text(whole.replace("warmup_rounds", "warmup"), encoding="utf-8")
    with pytest.raises(KeyError, match="warmup_rounds"):
        keys.plan_tables()


def test_the_smallest_plan_of_plan_md_is_a_plan() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", text_of(ROOT / "docs/plan.md"), re.S)
    assert parse(example).privacy.unit == "none"


# --- reasons ---------------------------------------------------------------------------------------------------------


def test_every_literal_code_in_the_source_is_in_the_tables_of_reasons() -> None:
    """The oracle looks at ``code=`` alone and knows nothing of who carries it."""
    known = {reason.code for reason in reasons.found()}
    written = {
        keyword.value.value
        for tree in sources()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    }
    assert written - known == set()
    assert len(known) > 60


def test_a_code_is_a_literal_or_handed_on_but_never_put_together() -> None:
    computed = [
        ast.unparse(call)
        for tree in sources()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in reasons.KINDS
        for keyword in call.keywords
        if keyword.arg == "code"
        and not isinstance(keyword.value, ast.Constant)
        and ast.unparse(keyword.value).rpartition(".")[2] != "code"
    ]
    assert computed == []


def test_a_code_has_no_capitals_and_no_spaces() -> None:
    assert [reason.code for reason in reasons.found() if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", reason.code)] == []


def sources() -> list[ast.Module]:
    paths = (path for package in reasons.PACKAGES for path in (ROOT / package).rglob("*.py"))
    return [ast.parse(text_of(path)) for path in paths]


# --- links and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(page))):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(text_of(path))):
            broken.append(link)
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, pending = set(), [ROOT / "README.md"]
    while pending:
        page = pending.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+)", without_code(text_of(page)))
        pending += [(page.parent / link).resolve() for link in links if not re.match(r"[a-z]+:", link)]
    assert [name_of(page) for page in PAGES if page not in reached] == []


def test_every_scenario_that_a_page_runs_is_built_in_or_a_file_of_ones_own() -> None:
    run = re.compile(r"consilium-sim (?:run|baselines) (\w[\w.-]*)")
    named = {name for page in PAGES for name in run.findall(text_of(page))}
    assert {name for name in named if name.islower() and not name.endswith(".toml")} <= set(scenario.names())
    assert "demo" in named


def test_every_module_that_a_page_names_exists() -> None:
    named = {
        (page, path)
        for page in PAGES
        for path in re.findall(r"`((?:shared|client|server|simulations|tests|docs)/[\w/.-]+\.\w+)`", text_of(page))
    }
    assert len(named) > 40
    assert [f"{name_of(page)}: {path}" for page, path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_key_that_a_page_sets_on_the_command_line_is_a_key() -> None:
    said = [one for page in PAGES for one in re.findall(r"--set ([a-z_]+\.[\w.]+=[^\s`]+)", text_of(page))]
    assert len(said) >= 3
    for override in said:
        source = {"scenario.partition.alpha": ("scenario.partition.kind=dirichlet",)}
        base = "demo-private" if override.startswith("privacy.") else "demo"
        scenario.load(base, (*source.get(override.partition("=")[0], ()), override))


# --- version and places ----------------------------------------------------------------------------------------------


def test_the_changelog_has_a_section_for_this_version() -> None:
    version = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["version"]
    newest = re.findall(r"^## \[(.+?)\]", text_of(ROOT / "CHANGELOG.md"), re.M)[0]
    assert newest == version
    assert "### Privacy and security" in text_of(ROOT / "CHANGELOG.md")


def test_pages_speak_of_this_version() -> None:
    version = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["version"]
    for page in (ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "docs/threat-model.md", ROOT / "docs/guarantees.md"):
        assert set(re.findall(r"[Vv]ersion (\d+\.\d+\.\d+)", text_of(page))) == {version}


def test_no_tracked_file_names_a_place_on_somebodys_machine() -> None:
    places = re.compile(r"(?<![\w./])/(?:work|root|home|tmp/venv)\b")
    found = [
        f"{name_of(path)}:{number}"
        for path in tracked()
        if path.suffix in TEXT
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1)
        if places.search(line)
    ]
    assert found == []
