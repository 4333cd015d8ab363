"""Who may look at a page of this machine: by host, by token, by method; and what every answer forbids."""

import asyncio
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.local_page.guard import HEADERS, HOSTS, REPORT, Guard, new_token

TOKEN = "t" * 43
SHOWN = "what only those see who know the token"


async def inner(scope: Any, _receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"text/plain")]
    if scope["path"] == "/own":
        headers.append((b"content-security-policy", REPORT.encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": SHOWN.encode()})


def ask(path: str = "/", method: str = "GET", host: str = "127.0.0.1:8701", **headers: str) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=Guard(inner, TOKEN))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8701") as client:
            return await client.request(method, path, headers={"host": host, **headers})

    return asyncio.run(asked())


def cookie() -> str:
    name, value = Guard(inner, TOKEN).cookie
    return f"{name}={value}"


@pytest.mark.parametrize("host", ["127.0.0.1:8701", "localhost:9000", "[::1]:8701", "LOCALHOST", "127.0.0.1"])
def test_this_machine_is_heard_by_each_of_its_names(host: str) -> None:
    assert ask("/health", host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8701", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.5", "[::2]", ""],
)
def test_another_host_is_refused_even_with_the_token(host: str) -> None:
    said = ask(host=host, authorization=f"Bearer {TOKEN}")
    assert said.status_code == 421
    assert SHOWN not in said.text


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/events", "/runs/x/report.html", "/style.css", "/health/", "//health"]
)
def test_without_the_token_nothing_is_shown(path: str) -> None:
    said = ask(path)
    assert (said.status_code, SHOWN in said.text) == (403, False)


def test_health_is_shown_without_the_token() -> None:
    assert ask("/health").text == SHOWN


def test_the_token_in_the_address_is_exchanged_for_a_cookie_that_scripts_cannot_read() -> None:
    said = ask(f"/?token={TOKEN}")
    assert (said.status_code, said.headers["location"]) == (303, "/")
    assert said.headers["set-cookie"] == f"{cookie()}; Path=/; HttpOnly; SameSite=Strict"
    assert TOKEN not in str(said.headers) + said.text


def test_the_cookie_opens_the_page_and_is_not_the_token() -> None:
    assert TOKEN not in cookie()
    assert ask(cookie=f"other=1; {cookie()}").text == SHOWN


@pytest.mark.parametrize("said", ["", "x", "T" * 43, "t" * 42, "t" * 44, "é"], ids=["none", "x", "T", "42", "44", "é"])
def test_another_token_opens_nothing(said: str) -> None:
    assert httpx.QueryParams({"token": said})
    assert ask(f"/?{httpx.QueryParams({'token': said})}").status_code == 403
    assert ask(cookie=f"{cookie().partition('=')[0]}={said.replace('é', 'e')}").status_code == 403
    assert ask(authorization=f"Bearer {said.replace('é', 'e')}").status_code == 403


def test_the_token_in_an_address_opens_the_first_page_only() -> None:
    assert ask(f"/metrics?token={TOKEN}").status_code == 403


def test_a_program_shows_the_token_as_bearer() -> None:
    assert ask("/metrics", authorization=f"Bearer {TOKEN}").text == SHOWN
    assert ask("/metrics", authorization=f"Basic {TOKEN}").status_code == 403


def test_a_cookie_of_another_name_with_the_right_value_opens_nothing() -> None:
    assert ask(cookie=f"consilium={cookie().partition('=')[2]}").status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(method: str) -> None:
    said = ask(method=method, cookie=cookie())
    assert (said.status_code, said.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/health", f"/?token={TOKEN}"], ids=["refused", "shown", "exchanged"])
def test_every_answer_has_every_header(path: str) -> None:
    said = ask(path).headers
    assert {name: said[name] for name in HEADERS} == dict(HEADERS)


def test_the_policy_lets_in_no_script_or_style_that_is_not_a_file_of_ours() -> None:
    rules = dict(part.strip().partition(" ")[::2] for part in HEADERS["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in HEADERS["content-security-policy"]
    assert rules["frame-ancestors"] == rules["form-action"] == rules["base-uri"] == "'none'"


def test_a_report_keeps_its_own_policy_which_permits_no_script() -> None:
    said = ask("/own", cookie=cookie()).headers
    assert said.get_list("content-security-policy") == [REPORT]
    assert "sandbox" in REPORT
    assert "script-src" not in REPORT


def test_a_token_is_new_each_time_and_for_its_owner_alone(tmp_path: Path) -> None:
    first, second = new_token(tmp_path / "token"), new_token(tmp_path / "token")
    assert first != second
    assert len(second) == 43
    assert (tmp_path / "token").read_text() == second + "\n"
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_two_pages_of_one_machine_have_cookies_of_two_names() -> None:
    """Browsers send a host's cookies to all its ports."""
    assert Guard(inner, "a" * 43).cookie[0] != Guard(inner, "b" * 43).cookie[0]


def test_the_names_of_this_machine_are_the_loopback_and_no_other() -> None:
    assert sorted(HOSTS) == ["127.0.0.1", "[::1]", "localhost"]
