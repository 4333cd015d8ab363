"""The custodian's socket, for real: who is heard, who waits, and what ends."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.custodian import caller
from client.custodian.caller import ask, status
from client.custodian.service import WAITING, Limits, Service, listen, watch
from shared.errors import SiteDataError
from shared.message_bytes import reply_from_bytes
from shared.messages import Refusal
from shared.parcels import Parcel

KNOWN = "ab" * 32
QUESTION = Parcel("aachen", b"question", b"s" * 64, b"order")


def echo(parcel: Parcel) -> Parcel:
    return Parcel("aachen", parcel.body[::-1], parcel.signature)


@contextmanager
def custodian(folder: Path, answer: Callable[[Parcel], Parcel] = echo, **how: Any) -> Iterator[tuple[Path, Path]]:
    socket, token = folder / "c.sock", folder / "token"
    token.touch(0o640)
    token.write_text(KNOWN + "\n")
    server = listen(Service(KNOWN, answer, lambda: {"site": "aachen"}, **how), socket)
    try:
        yield socket, token
    finally:
        server.stop(0)


def code(action: Callable[[], object]) -> str:
    with pytest.raises(SiteDataError) as caught:
        action()
    return caught.value.code


def refusal(parcel: Parcel) -> str:
    reply = reply_from_bytes(parcel.body)
    assert isinstance(reply, Refusal)
    return reply.code


def outcome(action: Callable[[], Parcel]) -> str:
    """Code of the refusal at either end: both have a clock, and either may see first that the time is over."""
    try:
        parcel = action()
    except SiteDataError as error:
        return error.code
    return refusal(parcel)


def test_a_parcel_reaches_the_custodian_and_its_answer_comes_back(tmp_path: Path) -> None:
    large = Parcel("aachen", bytes(range(256)) * 40_000, b"s" * 64, b"order")
    with custodian(tmp_path) as (socket, token):
        for parcel in (QUESTION, large):
            assert ask(socket, token, parcel, 20.0) == echo(parcel)


def test_the_socket_is_for_its_owner_and_its_group(tmp_path: Path) -> None:
    with custodian(tmp_path) as (socket, _):
        assert socket.stat().st_mode & 0o777 == 0o660


def test_a_caller_without_the_token_is_not_heard(tmp_path: Path) -> None:
    heard: list[Parcel] = []

    def answer(parcel: Parcel) -> Parcel:
        heard.append(parcel)
        return parcel

    with custodian(tmp_path, answer) as (socket, token):
        token.write_text("cd" * 32)
        assert code(lambda: ask(socket, token, QUESTION, 5.0)) == "custodian-token"
        assert code(lambda: status(socket, token)) == "custodian-token"
        channel = grpc.insecure_channel(f"unix:{socket}")
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(f"/{caller.NAME}/Ask")(iter([b"{}"]), timeout=5))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        channel.close()
    assert not heard


@pytest.mark.parametrize(("mode", "heard"), [(0o640, True), (0o600, True), (0o644, False), (0o660, False)])
def test_a_token_that_others_may_read_or_write_is_not_used(tmp_path: Path, mode: int, heard: bool) -> None:
    with custodian(tmp_path) as (socket, token):
        token.chmod(mode)
        if heard:
            assert ask(socket, token, QUESTION, 5.0) == echo(QUESTION)
        else:
            assert code(lambda: ask(socket, token, QUESTION, 5.0)) == "custodian-token"


def test_where_nobody_listens_the_relay_is_told_within_its_deadline(tmp_path: Path) -> None:
    with custodian(tmp_path) as (socket, token):
        pass
    began = time.monotonic()
    assert code(lambda: ask(socket, token, QUESTION, 3.0)) in {"custodian-unreachable", "custodian-deadline"}
    assert time.monotonic() - began < 6


def test_a_missing_token_is_one_sentence(tmp_path: Path) -> None:
    assert code(lambda: ask(tmp_path / "c.sock", tmp_path / "token", QUESTION, 1.0)) == "custodian-token"


def test_a_body_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    with custodian(tmp_path, limits=Limits(most_bytes=100)) as (socket, token):
        assert refusal(ask(socket, token, Parcel("", b"x" * 101), 5.0)) == "too-large"


def test_one_job_at_a_time_and_no_more_wait_than_may(tmp_path: Path) -> None:
    gate, running, most = threading.Event(), [0], [0]

    def slow(parcel: Parcel) -> Parcel:
        running[0] += 1
        most[0] = max(most[0], running[0])
        gate.wait(20)
        running[0] -= 1
        return parcel

    with custodian(tmp_path, slow) as (socket, token):
        replies: list[Parcel] = []
        threads = [
            threading.Thread(target=lambda: replies.append(ask(socket, token, QUESTION, 20.0)))
            for _ in range(WAITING + 3)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while not replies and time.monotonic() < deadline:
            time.sleep(0.02)
        assert {refusal(reply) for reply in replies} == {"busy"}
        said = status(socket, token)
        assert said["busy_s"] >= 0
        assert said["waiting"] == WAITING + 1
        gate.set()
        for thread in threads:
            thread.join(20)
        assert most == [1]
        assert sum(reply == QUESTION for reply in replies) == WAITING + 1


def test_whoever_stops_waiting_is_forgotten(tmp_path: Path) -> None:
    gate, done = threading.Event(), []

    def slow(parcel: Parcel) -> Parcel:
        done.append(parcel.body)
        gate.wait(20)
        return parcel

    with custodian(tmp_path, slow) as (socket, token):
        first = threading.Thread(target=lambda: ask(socket, token, QUESTION, 20.0))
        first.start()
        while not done:
            time.sleep(0.01)
        assert outcome(lambda: ask(socket, token, Parcel("", b"impatient"), 0.5)) in {"deadline", "custodian-deadline"}
        gate.set()
        first.join(20)
        assert ask(socket, token, QUESTION, 5.0) == QUESTION
    assert b"impatient" not in done


def test_the_status_says_what_the_site_says(tmp_path: Path) -> None:
    with custodian(tmp_path) as (socket, token):
        ask(socket, token, QUESTION, 5.0)
        assert status(socket, token) == {"site": "aachen", "busy_s": None, "waiting": 0, "answered": 1}


@pytest.mark.parametrize("why", ["hung", "unwanted"])
def test_the_watchdog_ends_what_hangs_and_what_is_not_wanted_any_more(tmp_path: Path, why: str) -> None:
    ended, gate = threading.Event(), threading.Event()

    def hang(parcel: Parcel) -> Parcel:
        gate.wait(20)
        return parcel

    service = Service(KNOWN, hang, dict, Limits(job_s=0.2 if why == "hung" else 60.0))
    watch(service, lambda: why == "unwanted", ended.set)
    assert not ended.wait(1.0), "nothing is worked on"
    server = listen(service, tmp_path / "c.sock")
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(KNOWN)
    thread = threading.Thread(target=lambda: ask(tmp_path / "c.sock", tmp_path / "token", QUESTION, 20.0))
    thread.start()
    assert ended.wait(5.0)
    gate.set()
    thread.join(10)
    server.stop(0)


def test_a_path_that_the_system_does_not_allow_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError, match=r"has \d+ bytes, the system allows 107"):
        listen(Service(KNOWN, echo, dict), tmp_path / ("x" * 120))


def test_a_killed_custodian_is_a_typed_error_for_the_relay(tmp_path: Path) -> None:
    socket, token = tmp_path / "c.sock", tmp_path / "token"
    token.touch(0o600)
    token.write_text(KNOWN)
    code_ = (
        "import sys, time; from pathlib import Path\n"
        "from client.custodian.service import Service, listen\n"
        f"server = listen(Service('{KNOWN}', lambda parcel: time.sleep(60) or parcel, dict), Path(sys.argv[1]))\n"
        "print('listening', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code_, str(socket)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        threading.Timer(1.0, process.kill).start()
        assert code(lambda: ask(socket, token, QUESTION, 15.0)) == "custodian-unreachable"
    finally:
        process.kill()
        process.communicate(timeout=10)
