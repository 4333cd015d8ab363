"""``consilium-server`` and ``consilium-site`` as two people type them, from an empty folder to a signed plan."""

import io
import json
import re
import stat
import sys
from pathlib import Path
from unittest import mock

import pytest
import tomli_w
from small_hospitals import Said
from small_server import lead
from small_site import site

from server.commands import passphrase
from server.federation_folder import FederationFolder
from shared.crypto.key_files import write_key_file
from shared.errors import FederationError
from shared.trust.plans import open_plan
from shared.trust.words import words_of
from simulations.scenario import load

Capsys = pytest.CaptureFixture[str]
COMMANDS = ("init", "enrol", "sites", "suspend", "reinstate", "remove", "renew", "sign")
FOUR_WORDS = "four words are enough"


class Consortium:
    """A federation folder, one site folder, and the files that go between them."""

    def __init__(self, capsys: Capsys, folder: Path) -> None:
        self.capsys, self.folder, self.home, self.site = capsys, folder, folder / "federation", folder / "aachen"
        self.request, self.welcome = folder / "aachen.request", folder / "aachen.welcome"
        made = self.leads("init", self.home, "--name", "lungs", "--address", "localhost:8443", here=False)
        assert made.status == 0
        self.words = spoken_in(made.out)
        assert self.says("init", self.site, here=False).status == 0

    def leads(self, *words: object, typed: str = "", here: bool = True) -> Said:
        return lead(self.capsys, *words, *(["--federation", self.home] if here else []), typed=typed)

    def says(self, *words: object, typed: str = "", here: bool = True) -> Said:
        with mock.patch.object(sys, "stdin", io.StringIO(typed)):
            return site(self.capsys, *words, *(["--site", self.site] if here else []))

    def asks(self) -> Said:
        return self.says("request", "--out", self.request)

    def enrols(self, *words: object, typed: str = "") -> Said:
        return self.leads("enrol", self.request, "--out", self.welcome, *words, typed=typed)

    def joins(self) -> None:
        assert [self.asks().status, self.enrols("--yes").status] == [0, 0]
        assert self.says("accept", self.welcome, "--yes").status == 0


@pytest.fixture
def both(capsys: Capsys, tmp_path: Path) -> Consortium:
    return Consortium(capsys, tmp_path)


def spoken_in(text: str) -> list[str]:
    """The twelve words that stand numbered in ``text``."""
    rows = [re.findall(r"\d+ ([a-z]+)", line) for line in text.splitlines()]
    return [word for row in rows if len(row) == 4 for word in row]


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_a_hospital_joins_and_both_ends_show_the_same_words(both: Consortium) -> None:
    asked, enrolled = both.asks(), both.enrols(typed="y\n")
    assert (asked.status, enrolled.status) == (0, 0)
    assert len(spoken_in(asked.out)) == 12
    assert spoken_in(asked.out) == spoken_in(enrolled.out)
    accepted = both.says("accept", both.welcome, typed="y\n")
    assert accepted.status == 0
    assert spoken_in(accepted.out) == both.words == spoken_in(enrolled.err.partition("read these words")[2])
    assert "localhost:8443" in accepted.out
    assert "accepted and pinned" in accepted.err


def test_what_is_shown_for_programs_is_what_is_shown_for_people(both: Consortium) -> None:
    asked = json.loads(both.says("request", "--out", both.request, "--json").out)
    enrolled = json.loads(both.enrols("--yes", "--json").out)
    accepted = json.loads(both.says("accept", both.welcome, "--yes", "--json").out)
    assert asked["words"] == enrolled["words"]
    assert asked["identity"] == enrolled["identity"]
    assert enrolled["lead"] == accepted["lead"]
    assert accepted["lead"]["words"] == both.words
    assert accepted["roster"] == {"version": 2, "sites": ["aachen"]}


@pytest.mark.parametrize("typed", ["", "n\n", "\n", "maybe\n"])
def test_without_a_yes_nobody_is_enrolled(both: Consortium, typed: str) -> None:
    both.asks()
    said = both.enrols(typed=typed)
    assert said.status == 1
    assert "not confirmed" in said.err
    assert not both.welcome.exists()
    assert FederationFolder.open(both.home).roster().version == 1


def test_without_a_yes_nothing_is_pinned(both: Consortium) -> None:
    both.asks()
    both.enrols("--yes")
    assert both.says("accept", both.welcome, typed="n\n").status == 1
    assert not (both.site / "trust").exists()


def test_a_newer_welcome_of_a_pinned_lead_needs_no_words(both: Consortium) -> None:
    both.joins()
    both.leads("suspend", "aachen")
    both.enrols("--yes")
    said = both.says("accept", both.welcome)
    assert said.status == 0
    assert "1 site, 1 suspended" in said.out
    assert "held already" in both.says("accept", both.welcome).err


def test_the_doctor_of_the_machine_looks_for_the_pinned_coordinator(both: Consortium) -> None:
    before = {one["name"]: one for one in json.loads(both.says("doctor", "--json").out)}
    both.joins()
    after = {one["name"]: one for one in json.loads(both.says("doctor", "--json").out)}
    assert "no coordinator is set" in before["connection"]["sentence"]
    assert "localhost" in after["connection"]["sentence"]


def test_files_that_are_sent_may_be_read_by_others_and_hold_no_secret(both: Consortium) -> None:
    both.joins()
    for path in (both.request, both.welcome):
        assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR
        assert b"PRIVATE" not in path.read_bytes()


def test_files_lie_here_under_the_sites_name_if_nobody_says_where(
    both: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(both.folder)
    assert both.says("request").status == 0
    assert both.leads("enrol", "aachen.request", "--yes").status == 0
    assert both.says("accept", "aachen.welcome", "--yes").status == 0


def test_the_federation_folder_may_come_from_the_environment(both: Consortium) -> None:
    said = lead(both.capsys, "sites", environ={"CONSILIUM_FEDERATION": str(both.home)})
    assert said.status == 0


# --- sites, renew, sign ----------------------------------------------------------------------------------------------


def test_sites_shows_words_states_and_days_left(both: Consortium) -> None:
    both.joins()
    both.leads("suspend", "aachen")
    said = both.leads("sites")
    entry = FederationFolder.open(both.home).roster().entry("aachen")
    assert entry is not None
    assert f"aachen               suspended  {' '.join(words_of(entry.verify_key))}" in said.out
    assert "server 364 days, authority 3651 days" in said.out
    assert said.err == ""


def test_sites_for_programs_says_the_same(both: Consortium) -> None:
    both.joins()
    found = json.loads(both.leads("sites", "--json").out)
    assert found["days_left"] == {"server": 364, "authority": 3651}
    assert found["lead"]["words"] == both.words
    (one,) = found["sites"]
    assert (one["site"], one["state"], len(one["words"])) == ("aachen", "active", 12)


def test_states_change_by_command(both: Consortium) -> None:
    both.joins()
    said = [both.leads(what, "aachen").out.strip() for what in ("suspend", "reinstate", "remove")]
    assert said == [
        "aachen is suspended; roster 3",
        "aachen is active; roster 4",
        "aachen is removed; roster 5",
    ]
    refused = both.leads("remove", "aachen")
    assert refused.status == 1
    assert "no site of that name" in refused.err


def test_renewing_says_how_long_the_certificate_lasts(both: Consortium) -> None:
    before = (both.home / "trust/ca.pem").read_bytes()
    assert both.leads("renew").out == "the server certificate lasts 364 days\n"
    assert (both.home / "trust/ca.pem").read_bytes() == before


def test_signing_prints_the_file_and_the_file_opens(both: Consortium) -> None:
    plan = load("demo").plan
    path = both.folder / "plan.toml"
    path.write_text(tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)))
    printed = Path(both.leads("sign", path).out.strip())
    assert printed.stem == plan.digest()
    assert open_plan(printed.read_bytes(), FederationFolder.open(both.home).lead) == plan


def test_init_over_a_federation_is_refused_with_what_to_do_instead(both: Consortium) -> None:
    said = both.leads("init", both.home, "--name", "lungs", "--address", "localhost:8443", here=False)
    assert said.status == 1
    assert "root of trust is made once" in said.err
    assert "renew" in said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_on_one_screen(capsys: Capsys, command: str) -> None:
    said = lead(capsys, command, "--help")
    assert said.status == 0
    assert len(said.out.splitlines()) <= 40


def test_a_folder_that_is_no_federation_is_told_with_a_hint(capsys: Capsys, tmp_path: Path) -> None:
    said = lead(capsys, "sites", "--federation", tmp_path)
    assert said.status == 1
    assert "consilium-server init" in said.err


def test_a_request_that_is_none_is_refused_and_not_repeated(both: Consortium) -> None:
    both.request.write_text("patient Erika Mustermann")
    said = both.enrols("--yes")
    assert said.status == 1
    assert "Erika" not in said.err + said.out


# --- passphrases -----------------------------------------------------------------------------------------------------


def test_locked_keys_are_used_with_the_passphrase_of_a_file_and_refused_without(capsys: Capsys, tmp_path: Path) -> None:
    home, kept = tmp_path / "federation", tmp_path / "passphrase"
    write_key_file(kept, f"{FOUR_WORDS}\n".encode())
    words = ("init", home, "--name", "lungs", "--address", "localhost:8443", "--passphrase")
    from_file = {"CONSILIUM_PASSPHRASE_FILE": str(kept)}
    said = [lead(capsys, *words, environ=from_file), lead(capsys, "renew", "--federation", home, environ=from_file)]
    assert [one.status for one in said] == [0, 0]
    assert b"BEGIN" not in (home / "trust/lead.key").read_bytes()
    refused = lead(capsys, "renew", "--federation", home)
    assert refused.status == 1
    assert "nobody can be asked" in refused.err
    assert FOUR_WORDS not in "".join(one.out + one.err for one in (*said, refused))


def test_a_passphrase_is_never_a_word_of_the_command_line(capsys: Capsys, tmp_path: Path) -> None:
    """``--passphrase`` takes no value: what follows it is one word too many."""
    words = ("init", tmp_path / "a", "--name", "lungs", "--address", "b:1", "--passphrase", FOUR_WORDS)
    said = lead(capsys, *words)
    assert said.status == 2
    assert not (tmp_path / "a").exists()


def asker(*answers: str) -> tuple[passphrase.Question, list[str]]:
    left, asked = list(answers), list[str]()

    def ask(what: str) -> str:
        asked.append(what)
        if not left:
            raise EOFError
        return left.pop(0)

    return ask, asked


def code(call: object) -> str:
    with pytest.raises(FederationError) as caught:
        call()  # type: ignore[operator]
    assert FOUR_WORDS not in f"{caught.value.sentence} {caught.value.hint}"
    return caught.value.code


def test_a_new_passphrase_is_typed_twice() -> None:
    ask, asked = asker(FOUR_WORDS, FOUR_WORDS)
    assert passphrase.to_lock({}, ask) == FOUR_WORDS.encode()
    assert len(asked) == 2
    assert code(lambda: passphrase.to_lock({}, asker(FOUR_WORDS, "something else")[0])) == "passphrase-differs"


def test_a_short_passphrase_is_refused_wherever_it_comes_from() -> None:
    assert code(lambda: passphrase.to_lock({}, asker("short")[0])) == "passphrase-short"
    assert code(lambda: passphrase.to_lock({"CONSILIUM_PASSPHRASE": "short"}, asker()[0])) == "passphrase-short"


def test_the_file_goes_before_the_environment_and_that_before_a_question(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    write_key_file(kept, b"from the file\r\n")
    both = {"CONSILIUM_PASSPHRASE_FILE": str(kept), "CONSILIUM_PASSPHRASE": "from the environment"}
    ask, asked = asker("typed by somebody")
    assert passphrase.to_open(both, ask)() == b"from the file"
    assert passphrase.to_open({"CONSILIUM_PASSPHRASE": "from the environment"}, ask)() == b"from the environment"
    assert asked == []
    assert passphrase.to_open({}, ask)() == b"typed by somebody"


def test_a_question_is_asked_once_for_a_whole_command() -> None:
    ask, asked = asker(FOUR_WORDS)
    opens = passphrase.to_open({}, ask)
    assert opens() == opens() == FOUR_WORDS.encode()
    assert len(asked) == 1


def test_a_passphrase_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text(FOUR_WORDS)
    kept.chmod(0o644)
    with pytest.raises(Exception, match="open to others"):
        passphrase.to_open({"CONSILIUM_PASSPHRASE_FILE": str(kept)}, asker()[0])()


def test_where_nobody_can_be_asked_the_error_says_what_to_set() -> None:
    with pytest.raises(FederationError) as caught:
        passphrase.to_open({}, asker()[0])()
    assert caught.value.code == "passphrase-missing"
    assert "CONSILIUM_PASSPHRASE_FILE" in caught.value.hint
