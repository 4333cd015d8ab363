"""The page of hospital IT over HTTP, and ``consilium-site status`` as it is typed."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from lived_in import Hospital, custodian, hospital, supernode, week_later
from small_site import site as typed
from small_trust import new_site
from watched import TOKEN, browser

from client.statuspage import app as statuspage
from client.statuspage.app import NAMES, create, shown
from shared.local_page import serving
from shared.local_page.guard import HEADERS


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    return hospital(tmp_path_factory.mktemp("home"))


@pytest.fixture
def app(home: Hospital) -> object:
    return create(home.site, week_later, TOKEN)


def get(app: object, path: str, *, known: bool = True, **headers: str) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with browser(app, known=known) as client:
            return await client.get(path, headers=headers)

    return asyncio.run(asked())


def test_the_page_shows_every_section(app: object) -> None:
    said = get(app, "/").text
    assert all(f'id="{name}"' in said for name in NAMES)
    for words in ("aachen", "lead.example:443", "retina-vessels", "m.curie", "130 KiB", "updates of the model"):
        assert words in said


@pytest.mark.parametrize("path", ["/", "/metrics", "/style.css", "/events"])
def test_nothing_is_shown_without_the_token_and_every_answer_has_the_headers(app: object, path: str) -> None:
    said = get(app, path, known=False)
    assert said.status_code == 403
    assert {name: said.headers[name] for name in HEADERS} == dict(HEADERS)


def test_another_host_gets_nothing(app: object) -> None:
    assert get(app, "/", host="aachen.example").status_code == 421


def test_there_are_no_runs_or_reports_on_a_site_s_page(app: object) -> None:
    assert get(app, f"/runs/{'0' * 32}/report.html").status_code == 404
    assert get(app, "/keys/identity.pem").status_code == 404


def test_health_says_the_first_thing_that_is_wrong(home: Hospital, app: object) -> None:
    said = get(app, "/health", known=False)
    assert (said.status_code, said.json()) == (503, {"status": "custodian-down"})
    home.session()
    with custodian(home.run), supernode(home.run):
        said = get(create(home.site, week_later, TOKEN), "/health", known=False)
    assert (said.status_code, said.json()) == (200, {"status": "ok"})


def test_metrics_need_the_token(app: object) -> None:
    said = get(app, "/metrics", known=False, authorization=f"Bearer {TOKEN}").text
    assert "consilium_custodian_up 0.0" in said
    assert "aachen" not in said


def test_the_address_opens_the_page(home: Hospital) -> None:
    with shown(home.site, 0, week_later) as address, httpx.Client(follow_redirects=True, trust_env=False) as client:
        assert "What left this hospital" in client.get(address).text
        token = (home.run / "page.token").read_text().strip()
        assert token in address


def test_the_command_prints_a_table_or_json(home: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    said = typed(capsys, "status", "--site", home.site.path)
    assert (said.status, "Custodian" in said.out) == (0, True)
    found = json.loads(typed(capsys, "status", "--site", home.site.path, "--json").out)
    assert found["site"] == "aachen"
    assert found["approvals"][0]["by"] == "m.curie"


def test_the_command_says_where_there_is_no_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = typed(capsys, "status", "--site", tmp_path)
    assert said.status == 1
    assert "no site folder" in said.err


def test_an_event_arrives_when_an_approval_is_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuspage, "LOOK_S", 0.05)
    home = hospital(tmp_path)
    with (
        serving.served(create(home.site, week_later, TOKEN)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client,
        client.stream("GET", "/events", headers={"authorization": f"Bearer {TOKEN}"}) as response,
    ):
        said = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))
        assert "withdrawn" not in next(said)["approvals"]["html"]
        home.withdraw()
        changed = next(said)
    assert "withdrawn" in changed["approvals"]["html"]
    assert "budgets" not in changed


def test_the_page_says_what_is_wrong_where_something_cannot_be_read(tmp_path: Path) -> None:
    home = hospital(tmp_path)
    (home.site.path / "policy.toml").write_text("surprise = 1\n")
    (home.site.path / "audit.jsonl").unlink()
    said = get(create(home.site, week_later, TOKEN), "/").text
    assert "every request is refused" in said
    assert "The audit log cannot be read." in said
    assert "Something cannot be read" in said


def test_a_name_from_the_log_is_escaped(tmp_path: Path) -> None:
    home = hospital(tmp_path)
    path = home.site.path / "audit.jsonl"
    line = {
        "number": 99,
        "at": week_later().isoformat(),
        "event": "<script>x",
        "dataset": "<b>",
        "counts": {"bytes": "1"},
    }
    path.write_bytes(path.read_bytes() + json.dumps(line).encode() + b"\n")
    said = get(create(home.site, week_later, TOKEN), "/").text
    assert "<script>x" not in said
    assert "<b>" not in said


def test_the_page_of_a_site_that_has_not_joined_stands(tmp_path: Path) -> None:
    said = get(create(new_site(tmp_path), week_later, TOKEN), "/").text
    assert "in no federation yet" in said
    assert "No plan was approved here" in said
