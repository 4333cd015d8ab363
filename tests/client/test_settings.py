"""site.toml: what is written at first says the defaults and explains every key; what is wrong is one sentence."""

import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from client import settings
from client.settings import Settings, Site
from shared.errors import SiteDataError


def keys_of(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for section, field in model.model_fields.items():
        assert isinstance(field.annotation, type)
        yield from ((section, key) for key in field.annotation.model_fields)


def refusal(text: str) -> SiteDataError:
    with pytest.raises(SiteDataError) as caught:
        settings.parse(text)
    assert caught.value.code == "settings"
    return caught.value


def test_the_first_site_toml_says_the_defaults() -> None:
    assert settings.parse(settings.template("north")) == Settings(site=Site(name="north"))


def test_the_first_site_toml_has_every_key_and_no_other() -> None:
    written = tomllib.loads(settings.template("north"))
    assert {(section, key) for section, table in written.items() for key in table} == set(keys_of(Settings))
    assert len(set(keys_of(Settings))) == 11


def test_every_key_of_the_first_site_toml_is_explained_right_above_it() -> None:
    lines = settings.template("north").splitlines()
    bare = [line for before, line in itertools.pairwise(lines) if " = " in line and not before.startswith("#")]
    assert [line for line in bare if not line.startswith("#")] == []


def test_the_first_site_toml_fits_a_screen_and_holds_no_placeholder() -> None:
    text = settings.template("north")
    assert max(map(len, text.splitlines())) <= 90
    assert not re.search(r"\{\w+\}", text)


def test_encryption_is_the_one_thing_that_is_asked_at_first() -> None:
    plain, sealed = settings.template("north"), settings.template("north", "aes-gcm")
    assert settings.parse(sealed).store.encryption == "aes-gcm"
    differ = [pair for pair in zip(plain.splitlines(), sealed.splitlines(), strict=True) if pair[0] != pair[1]]
    assert differ == [('encryption = "none"', 'encryption = "aes-gcm"')]


def test_the_least_that_a_site_must_say_is_its_name() -> None:
    assert settings.parse('[site]\nname = "north"') == Settings(site=Site(name="north"))
    assert refusal("").sentence == "site.toml: missing key site"
    assert refusal("[site]").sentence == "site.toml: missing key site.name"


def test_defaults_are_the_careful_choice() -> None:
    found = settings.parse('[site]\nname = "north"')
    assert found.deidentification.dates == "drop"
    assert set(found.deidentification.refuse) == {"declared", "secondary-capture", "text"}
    assert found.doctor.disclosure_floor > 1


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("[sight]\nname = 1", "unknown key sight", "did you mean site?"),
        ("[ingest]\nworker = 2", "unknown key ingest.worker", "did you mean workers?"),
        ("[quarantine]\nquota = 1.5", "quarantine.quota = 1.5: Input should be less than or equal to 1", "correct"),
        ("[store]\nencryption = 'aes'", "store.encryption = 'aes': Input should be 'none' or 'aes-gcm'", "correct"),
        ("[deidentification]\nrefuse = ['txt']", "deidentification.refuse.0 = 'txt'", "correct"),
        ("[deidentification]\ndates = 'keep'", "deidentification.dates = 'keep'", "correct"),
        ("[doctor]\ndisclosure_floor = 0", "doctor.disclosure_floor = 0", "correct"),
        ("[ingest]\nworkers = 0", "ingest.workers = 0", "correct"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_a_suggestion(text: str, sentence: str, hint: str) -> None:
    error = refusal(f'[site]\nname = "north"\n{text}' if "sight" not in text else text)
    assert error.sentence.startswith(f"site.toml: {sentence}")
    assert error.hint.startswith(hint)
    assert "plan.md" not in error.hint


def test_broken_toml_is_a_sentence_with_the_line() -> None:
    assert "line 2" in refusal("[site]\nname = north\n").sentence


@pytest.mark.parametrize("name", ["", "North", "north ward", 'a"b', "-a", "a" * 64, "a\n", "nørd"])
def test_what_cannot_name_a_site_is_refused_before_a_file_is_made_of_it(name: str) -> None:
    with pytest.raises(SiteDataError, match="cannot name a site") as caught:
        settings.template(name)
    assert caught.value.code == "site-name"
    with pytest.raises(ValidationError):
        Site(name=name)


def test_settings_cannot_be_changed() -> None:
    found = settings.parse(settings.template("north"))
    with pytest.raises(ValidationError):
        found.store.encryption = "aes-gcm"  # type: ignore[misc]


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_bytes(b"\xff\xfe")
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path / "site.toml", "not UTF-8")):
        with pytest.raises(SiteDataError, match=f"{path.name} cannot be read: {reason}"):
            settings.load(path)


@pytest.mark.parametrize(
    ("said", "refuse", "dates"),
    [
        ("", {"declared", "secondary-capture", "text"}, "drop"),
        ("[deidentification]\nrefuse = []\ndates = 'shift'", set(), "shift"),
        ("[deidentification]\nrefuse = ['declared']", {"declared"}, "drop"),
    ],
)
def test_rules_for_reading_follow_from_settings(said: str, refuse: set[str], dates: str) -> None:
    structures: dict[str, Any] = {"GTV": 1}
    found = settings.rules(settings.parse(f'[site]\nname = "north"\n{said}'), structures)
    assert (found.refuse, found.dates, found.structures) == (refuse, dates, structures)
