"""The roster on the disk is what counts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.federation_folder import FederationFolder, settings_for
from server.link.standing import Standing, standing
from shared.crypto import node_keys
from shared.crypto.signing import SigningKey
from shared.trust import roster as rosters

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    return FederationFolder.init(tmp_path / "federation", settings_for("test", "localhost:8443"), None, NOW)


def enrol(folder: FederationFolder, site: str) -> str:
    node = node_keys.public_pem(node_keys.generate())
    entry = rosters.Entry(site=site, identity=SigningKey.generate().verify_key.hex(), node=node)
    folder.change_roster(folder.lead_key(bytes), lambda held: rosters.with_site(held, entry, NOW))
    return node


def test_a_site_counts_from_the_moment_it_is_enrolled_until_it_is_removed(folder: FederationFolder) -> None:
    said: list[str] = []
    judge = standing(folder, said.append)
    assert judge("no key") == Standing("unknown")
    alpha, beta = enrol(folder, "alpha"), enrol(folder, "beta")
    assert (judge(alpha), judge(beta)) == (Standing("active", "alpha"), Standing("active", "beta"))
    folder.change_roster(folder.lead_key(bytes), lambda held: rosters.with_state(held, "alpha", "suspended", NOW))
    assert (judge(alpha), judge(beta)) == (Standing("suspended", "alpha"), Standing("active", "beta"))
    folder.change_roster(folder.lead_key(bytes), lambda held: rosters.without(held, "alpha", NOW))
    assert (judge(alpha), judge(beta)) == (Standing("unknown"), Standing("active", "beta"))
    assert said == []


def test_a_roster_of_another_lead_lets_nobody_in_and_is_said_once(folder: FederationFolder, tmp_path: Path) -> None:
    said: list[str] = []
    judge = standing(folder, said.append)
    alpha = enrol(folder, "alpha")
    other = FederationFolder.init(tmp_path / "other", settings_for("test", "localhost:8443"), None, NOW)
    (folder.path / "roster.json").write_bytes((other.path / "roster.json").read_bytes())
    assert [judge(alpha).state for _ in range(3)] == ["unknown"] * 3
    assert len(said) == 1
    assert "nobody is let in" in said[0]


def test_a_roster_with_a_changed_state_lets_nobody_in(folder: FederationFolder) -> None:
    judge = standing(folder, lambda _sentence: None)
    alpha, beta = enrol(folder, "alpha"), enrol(folder, "beta")
    assert judge(alpha).state == "active"
    path = folder.path / "roster.json"
    content = json.loads(path.read_bytes())
    content["document"]["sites"][0]["state"] = "suspended"
    path.write_text(json.dumps(content))
    assert (judge(alpha).state, judge(beta).state) == ("unknown", "unknown")


def test_a_roster_that_is_gone_lets_nobody_in(folder: FederationFolder) -> None:
    judge = standing(folder, lambda _sentence: None)
    alpha = enrol(folder, "alpha")
    assert judge(alpha).state == "active"
    (folder.path / "roster.json").unlink()
    assert judge(alpha).state == "unknown"
