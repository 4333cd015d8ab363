"""The bundle: the same bytes everywhere, no code, and Flower takes it for one of its own."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.cli.install import install_from_fab
from flwr.common.config import get_fab_config, get_metadata_from_config

from shared.bundle import APP, CONFIG_KEYS, INSTALLED, VERSION, Bundle, bundle_bytes, bundle_sha256

GOLDEN = "63cd718be5657db382782934df98c6d7f7314c1380b38f0cef77c78530a3f356"


def contents(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_its_digest_is_the_one_that_sites_have_approved() -> None:
    """Changing this digest means that every site must approve anew: say so in the release notes."""
    assert bundle_sha256() == GOLDEN
    assert hashlib.sha256(bundle_bytes()).hexdigest() == GOLDEN


def test_it_holds_configuration_and_no_code() -> None:
    assert sorted(contents(bundle_bytes())) == [".info/CONTENT", "README.md", "pyproject.toml"]


def test_it_is_stored_and_not_compressed_because_compressors_differ() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle_bytes())) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_flower_reads_it_as_we_mean_it() -> None:
    config = get_fab_config(bundle_bytes())
    assert get_metadata_from_config(config) == (APP, VERSION)
    said = config["tool"]["flwr"]["app"]
    assert said["components"] == {"serverapp": INSTALLED.server, "clientapp": INSTALLED.client}
    assert said["config"] == dict.fromkeys(CONFIG_KEYS, "")
    assert config["project"]["dependencies"] == []


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_flower_builds_the_same_files_from_the_same_sources() -> None:
    ours = contents(bundle_bytes())
    built, _ = build_fab_from_files({name: ours[name] for name in ("pyproject.toml", "README.md")})
    theirs = contents(built)
    assert sorted(theirs) == sorted(ours)
    assert theirs["README.md"] == ours["README.md"]
    assert get_fab_config(built) == get_fab_config(bundle_bytes())


def test_flower_unpacks_it(tmp_path: Path) -> None:
    where = install_from_fab(bundle_bytes(), tmp_path, skip_prompt=True)
    assert sorted(path.name for path in where.iterdir()) == ["README.md", "pyproject.toml"]


def test_one_changed_byte_of_a_file_is_noticed_by_flower_too(tmp_path: Path) -> None:
    broken = bundle_bytes().replace(b"Configuration only", b"Configuration 0nly")
    with pytest.raises(Exception, match=r"verified|CRC"):
        install_from_fab(broken, tmp_path, skip_prompt=True)


def test_another_app_is_another_bundle() -> None:
    other = Bundle(client="evil:app")
    assert bundle_sha256(other) != bundle_sha256()
    assert b'clientapp = "evil:app"' in contents(bundle_bytes(other))["pyproject.toml"]
