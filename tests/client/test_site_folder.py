"""A site folder: whole or not there, closed to others, and its keys are never guessed, shared or made twice."""

import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client import site_folder
from client.governance import policy
from client.governance.audit import verify
from client.governance.ledger import Ledger
from client.governance.policy import Policy
from client.settings import template
from client.site_folder import STORE_KEY, SiteFolder
from shared.crypto.key_files import write_secret
from shared.durable import replace_file
from shared.errors import PolicyError, SiteDataError

NOW = datetime(2025, 3, 1, tzinfo=UTC)
HEX = "ab" * 32


def made(path: Path, text: str = "") -> SiteFolder:
    return SiteFolder.init(path, text or template("north"), NOW)


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return made(tmp_path / "site")


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(SiteDataError) as caught:
        act()
    return caught.value.code


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# --- init ------------------------------------------------------------------------------------------------------------


def test_a_new_site_holds_settings_keys_ledger_audit_log_and_no_data(site: SiteFolder) -> None:
    assert everything(site.path) == {
        "site.toml",
        "policy.toml",
        "keys",
        "keys/identity.pem",
        "keys/pseudonyms.secret",
        "datasets",
        "ledger.sqlite",
        "audit.jsonl",
    }


def test_a_store_key_is_made_only_where_images_are_encrypted(site: SiteFolder, tmp_path: Path) -> None:
    sealed = made(tmp_path / "sealed", template("north", "aes-gcm"))
    assert everything(sealed.path) - everything(site.path) == {"keys/store.key"}
    assert site.store_key({}) is None
    assert len(sealed.store_key({}) or b"") == 32


def test_nobody_but_the_owner_can_look_into_a_new_site_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        site = made(tmp_path / "site", template("north", "aes-gcm"))
    finally:
        os.umask(previous)
    for path in (site.path, *site.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name


def test_an_empty_folder_that_is_there_becomes_a_site_and_is_closed(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir(mode=0o755)
    made(tmp_path / "site")
    assert stat.S_IMODE((tmp_path / "site").stat().st_mode) == 0o700


def test_folders_above_are_made(tmp_path: Path) -> None:
    assert made(tmp_path / "srv" / "consilium").path.is_dir()


def test_a_folder_that_holds_something_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert code_of(lambda: made(tmp_path)) == "folder-not-empty"
    assert everything(tmp_path) == {"notes.txt"}


def test_a_site_is_never_made_over_another(site: SiteFolder) -> None:
    before = {path: path.read_bytes() for path in site.path.rglob("*") if path.is_file()}
    assert code_of(lambda: made(site.path)) == "folder-not-empty"
    assert {path: path.read_bytes() for path in site.path.rglob("*") if path.is_file()} == before


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("x")
    assert code_of(lambda: made(tmp_path / "site")) == "folder-not-empty"


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SiteDataError, match="cannot be made: Not a directory") as caught:
        made(tmp_path / "file" / "site")
    assert caught.value.code == "folder-unwritable"


def test_wrong_settings_make_nothing(tmp_path: Path) -> None:
    assert code_of(lambda: made(tmp_path / "site", "[site]\n")) == "settings"
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("step", ["write_secret", "replace_file", "ledger"])
def test_what_fails_halfway_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    target = (site_folder.ledger, "create") if step == "ledger" else (site_folder, step)
    monkeypatch.setattr(*target, full)
    with pytest.raises(OSError, match="No space"):
        made(tmp_path / "site")
    assert everything(tmp_path / "site") == set()


def test_a_site_whose_settings_cannot_be_written_keeps_no_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def once(path: Path, content: bytes) -> None:
        if path.name == "site.toml":
            assert (path.parent / "policy.toml").is_file()
            raise OSError(28, "No space left on device")
        replace_file(path, content)

    monkeypatch.setattr(site_folder, "replace_file", once)
    with pytest.raises(OSError, match="No space"):
        made(tmp_path / "site")
    assert everything(tmp_path / "site") == set()


def test_no_two_sites_have_a_key_in_common(site: SiteFolder, tmp_path: Path) -> None:
    other = made(tmp_path / "other")
    assert site.signing_key().verify_key != other.signing_key().verify_key
    assert site.salt().secret != other.salt().secret
    assert len(site.salt().secret) == 32


def test_the_ledger_of_a_new_site_is_empty(site: SiteFolder) -> None:
    assert Ledger.open(site.path / "ledger.sqlite").cohorts() == ()


def test_the_first_line_of_the_audit_log_says_which_key_the_site_was_made_with(site: SiteFolder) -> None:
    key = site.signing_key().verify_key
    assert verify(site.path / "audit.jsonl", key).lines == 1
    said = json.loads((site.path / "audit.jsonl").read_text())
    assert (said["event"], said["at"], said["digests"]) == (
        "init",
        "2025-03-01T00:00:00+00:00",
        {"identity": key.hex()},
    )


# --- open ------------------------------------------------------------------------------------------------------------


def test_what_was_made_can_be_opened_with_the_same_keys(site: SiteFolder) -> None:
    again = SiteFolder.open(site.path)
    assert again == site
    assert again.salt() == site.salt()
    assert again.signing_key().verify_key == site.signing_key().verify_key


def test_names_depend_on_the_site_s_name_and_its_secret(site: SiteFolder) -> None:
    assert site.salt().site == "north"
    (site.path / "site.toml").write_text(template("south"))
    assert SiteFolder.open(site.path).salt().person("7") != site.salt().person("7")


@pytest.mark.parametrize("held", [[], ["keys"], ["audit.jsonl"]])
def test_a_folder_without_site_toml_is_no_site(tmp_path: Path, held: list[str]) -> None:
    for name in held:
        (tmp_path / name).mkdir()
    with pytest.raises(SiteDataError, match="is no site folder") as caught:
        SiteFolder.open(tmp_path)
    assert caught.value.code == "no-site"
    assert "consilium-site init" in caught.value.hint


@pytest.mark.parametrize("name", ["identity.pem", "pseudonyms.secret", "store.key"])
def test_a_key_that_others_can_read_is_refused_with_the_chmod_to_type(tmp_path: Path, name: str) -> None:
    site = made(tmp_path / "site", template("north", "aes-gcm"))
    (site.path / "keys" / name).chmod(0o640)
    use = {
        "identity.pem": site.signing_key,
        "pseudonyms.secret": site.salt,
        "store.key": lambda: site.store_key({}),
    }[name]
    with pytest.raises(SiteDataError, match=f"{name} is open to others") as caught:
        use()
    assert caught.value.hint == f"chmod 600 {site.path / 'keys' / name}"


def test_the_audit_log_is_signed_by_the_site_s_own_key(site: SiteFolder) -> None:
    assert site.audit.signer.verify_key == site.signing_key().verify_key
    assert site.audit.path == site.path / "audit.jsonl"


# --- policy ----------------------------------------------------------------------------------------------------------


def test_a_new_site_permits_what_the_defaults_permit(site: SiteFolder) -> None:
    assert site.has_policy
    assert (site.path / "policy.toml").read_text() == policy.template()
    assert site.policy == Policy()


def test_the_policy_is_what_the_file_says_whenever_it_is_asked_for(site: SiteFolder) -> None:
    for patients in (7, 8):
        (site.path / "policy.toml").write_text(f"[privacy]\nmin_patients = {patients}\n")
        assert site.policy.privacy.min_patients == patients


def test_a_folder_from_before_there_were_policies_has_the_defaults(site: SiteFolder) -> None:
    (site.path / "policy.toml").unlink()
    assert SiteFolder.open(site.path).policy == Policy()
    assert not site.has_policy


@pytest.mark.parametrize("broken", ["text", "link", "folder"])
def test_a_policy_that_cannot_be_read_is_never_taken_for_a_missing_one(site: SiteFolder, broken: str) -> None:
    path = site.path / "policy.toml"
    path.unlink()
    {
        "text": lambda: path.write_text("[privacy]\nmin_patient = 1\n"),
        "link": lambda: path.symlink_to(site.path / "gone.toml"),
        "folder": path.mkdir,
    }[broken]()
    with pytest.raises(PolicyError) as caught:
        _ = SiteFolder.open(site.path).policy
    assert caught.value.code == "policy-file"


# --- the key of the archive ------------------------------------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path: Path) -> SiteFolder:
    return made(tmp_path / "sealed", template("north", "aes-gcm"))


def test_the_environment_goes_before_the_file(sealed: SiteFolder) -> None:
    assert sealed.store_key({STORE_KEY: HEX}) == bytes.fromhex(HEX) != sealed.store_key({})


def test_the_process_s_environment_is_what_is_asked_where_no_other_is_given(
    sealed: SiteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORE_KEY, HEX)
    assert sealed.store_key() == bytes.fromhex(HEX)


def test_without_a_file_the_environment_is_enough(sealed: SiteFolder) -> None:
    (sealed.path / "keys/store.key").unlink()
    assert sealed.store_key({STORE_KEY: HEX}) == bytes.fromhex(HEX)
    assert code_of(lambda: sealed.store_key({})) == "key-missing"
    assert code_of(lambda: sealed.store_key({STORE_KEY: ""})) == "key-missing"


@pytest.mark.parametrize("text", ["secret", HEX[:-1], HEX + "0", "xy" * 32])
def test_a_key_of_another_form_is_refused_and_not_repeated(sealed: SiteFolder, text: str) -> None:
    with pytest.raises(SiteDataError, match=r"CONSILIUM_STORE_KEY holds .* expected 64 hexadecimal digits") as caught:
        sealed.store_key({STORE_KEY: text})
    assert text not in caught.value.sentence + caught.value.hint
    (sealed.path / "keys/store.key").write_text(text)
    assert code_of(lambda: sealed.store_key({})) == "secret-form"


def test_the_hint_for_a_missing_key_makes_one_that_is_taken(sealed: SiteFolder) -> None:
    (sealed.path / "keys/store.key").unlink()
    with pytest.raises(SiteDataError) as caught:
        sealed.store_key({})
    if os.system(caught.value.hint.rpartition("make one: ")[2]) != 0:  # noqa: S605 - what people type
        pytest.skip("openssl is not installed")
    assert len(sealed.store_key({}) or b"") == 32


def test_the_key_may_lie_elsewhere(sealed: SiteFolder, tmp_path: Path) -> None:
    write_secret(tmp_path / "elsewhere.key", bytes(32))
    text = template("north", "aes-gcm").replace("keys/store.key", str(tmp_path / "elsewhere.key"))
    (sealed.path / "site.toml").write_text(text)
    assert SiteFolder.open(sealed.path).store_key({}) == bytes(32)


def test_an_unencrypted_site_asks_for_no_key(site: SiteFolder) -> None:
    assert site.store_key({STORE_KEY: "nonsense"}) is None


# --- data sets and coordinator ---------------------------------------------------------------------------------------


def test_a_data_set_lies_under_its_name(site: SiteFolder) -> None:
    assert site.dataset("lesions-2024").folder == site.path / "datasets/lesions-2024"
    assert site.dataset("lesions-2024").name == "lesions-2024"


@pytest.mark.parametrize("name", ["", "..", "../keys", "a/b", "Lesions", ".hidden", "a" * 64, "a\n"])
def test_what_cannot_name_a_data_set_is_refused(site: SiteFolder, name: str) -> None:
    assert code_of(lambda: site.dataset(name)) == "dataset-name"


def test_a_coordinator_is_none_until_it_is_set_and_its_ca_file_is_relative_to_the_site(site: SiteFolder) -> None:
    assert site.coordinator() == (None, None)
    text = (
        template("north")
        .replace('address = ""', 'address = "lead.example:443"')
        .replace('ca_file = ""', 'ca_file = "ca.pem"')
    )
    (site.path / "site.toml").write_text(text)
    assert SiteFolder.open(site.path).coordinator() == ("lead.example:443", site.path / "ca.pem")
