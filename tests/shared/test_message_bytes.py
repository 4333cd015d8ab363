"""Messages as bytes: every one comes back to the bit, has one form only, and what is broken is named and refused."""

import dataclasses
import hashlib
import json
import random
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from shared.errors import ProtocolError
from shared.fixed_point import WIDTHS
from shared.message_bytes import (
    LONGEST_HEAD,
    reply_from_bytes,
    reply_to_bytes,
    request_from_bytes,
    request_to_bytes,
)
from shared.messages import (
    About,
    Bits,
    Confirm,
    Confirmed,
    Cross,
    Deal,
    Dealt,
    Envelope,
    Evaluate,
    Hello,
    Mask,
    Masked,
    Measured,
    Offered,
    Personalise,
    Refusal,
    Reply,
    Request,
    Revealed,
    Share,
    Shared,
    Train,
    Unmask,
    Update,
    Welcome,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "messages.json"

ENVELOPE = Envelope("run-1", "ab" * 32, 3)
WEIGHTS = np.array([0.5, -1.25, 3e-8], np.float32)
PAPER = np.frombuffer(b'{"names":["a"]}\n\x00\xff', np.uint8)
REQUESTS: list[Request] = [
    Hello(ENVELOPE, "signed\nroster"),
    Train(ENVELOPE, WEIGHTS),
    Evaluate(ENVELOPE, WEIGHTS, "validation"),
    Personalise(ENVELOPE, WEIGHTS, "test"),
    Share(ENVELOPE),
    Cross(ENVELOPE, WEIGHTS, "bergen"),
    Deal(ENVELOPE, "train", PAPER),
    Mask(ENVELOPE, "validation", PAPER),
    Confirm(ENVELOPE, "test", PAPER),
    Unmask(ENVELOPE, "personalise", PAPER),
]
STEPS: tuple[type[Any], ...] = (Deal, Mask, Confirm, Unmask)
REPLIES: list[Reply] = [
    Welcome((("numpy", "2.4.6"), ("torch", "2.13.0")), 12),
    Update(np.array([1, -2, 32767], np.int32), 16, 12, "cd" * 32, 1048576, 20, 1, 2.5),
    Measured(np.array([0, 5, -7], np.int64), "ef" * 32, 0.25),
    Shared(WEIGHTS, "ef" * 32),
    Refusal("site-data", "this site is empty: 0 usable cases, 3 unusable", "check the folder"),
    Offered(PAPER),
    Dealt(PAPER),
    Masked(np.arange(25, dtype=np.uint8), 18, 4, 2, "5a" * 64),
    Confirmed(PAPER),
    Revealed(PAPER),
]
PAPERS: tuple[type[Any], ...] = (Offered, Dealt, Confirmed, Revealed)


def same(one: Any, other: Any) -> bool:
    """Equal as values, arrays to the bit and of the same type."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return bool(one == other)


def refused(content: bytes) -> set[str]:
    """Codes with which ``content`` is refused, as a request and as a reply."""
    codes = set()
    for read in (request_from_bytes, reply_from_bytes):
        with pytest.raises(ProtocolError) as caught:
            read(content)
        codes.add(caught.value.code)
    return codes


def changed(content: bytes, **entries: Any) -> bytes:
    """``content`` with other entries, in the one form; None takes an entry away."""
    head, _, rest = content.partition(b"\n")
    said = {name: value for name, value in (json.loads(head) | entries).items() if value is not None}
    line = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    return line + b" " * (-(len(line) + 1) % 64) + b"\n" + rest


def test_every_kind_of_message_is_tested() -> None:
    assert {type(request) for request in REQUESTS} == set(get_args(Request))
    assert {type(reply) for reply in REPLIES} == set(get_args(Reply))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_a_request_comes_back(request_: Request) -> None:
    content = request_to_bytes(request_)
    assert same(request_from_bytes(content), request_)
    assert request_to_bytes(request_from_bytes(content)) == content


@pytest.mark.parametrize("reply", REPLIES, ids=lambda one: type(one).__name__)
def test_a_reply_comes_back(reply: Reply) -> None:
    content = reply_to_bytes(reply)
    assert same(reply_from_bytes(content), reply)
    assert reply_to_bytes(reply_from_bytes(content)) == content


@given(
    arrays_of.arrays(np.int32, st.integers(0, 40), elements=st.integers(-(2**7), 2**7 - 1)),
    st.sampled_from(WIDTHS),
    st.integers(-(2**62), 2**62),
    st.text(max_size=9),
)
def test_any_update_comes_back(values: np.ndarray[Any, Any], bits: Bits, loss_sum: int, schema: str) -> None:
    update = Update(values, bits, 3, schema, loss_sum, 7, 0, 0.5)
    assert same(reply_from_bytes(reply_to_bytes(update)), update)


@given(arrays_of.arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)))
def test_any_weights_come_back_even_those_that_are_no_numbers(weights: np.ndarray[Any, Any]) -> None:
    found = request_from_bytes(request_to_bytes(Train(ENVELOPE, weights)))
    assert isinstance(found, Train)
    assert found.weights.tobytes() == weights.tobytes()


@given(st.builds(Refusal, st.text(), st.text(), st.text()))
def test_any_sentence_comes_back(refusal: Refusal) -> None:
    assert reply_from_bytes(reply_to_bytes(refusal)) == refusal


@pytest.mark.parametrize("name", [one.name for one in dataclasses.fields(Update)])
def test_another_value_gives_other_bytes(name: str) -> None:
    """A digest that forgot a field would sign for what was never said."""
    reply = REPLIES[1]
    assert isinstance(reply, Update)
    others: dict[str, Any] = {"bits": 32, "values": np.append(reply.values, np.int32(1)), "schema": "x"}
    other: Any = others[name] if name in others else getattr(reply, name) + 1
    assert reply_to_bytes(dataclasses.replace(reply, **{name: other})) != reply_to_bytes(reply)


@given(st.binary(max_size=300), st.sampled_from(get_args(About)), st.integers(0, 3))
def test_any_paper_of_a_step_comes_back(paper: bytes, about: About, at: int) -> None:
    content = np.frombuffer(paper, np.uint8)
    step = STEPS[at](ENVELOPE, about, content)
    assert same(request_from_bytes(request_to_bytes(step)), step)
    assert request_to_bytes(step).endswith(b"\n" + paper)
    answer = PAPERS[at](content)
    assert same(reply_from_bytes(reply_to_bytes(answer)), answer)


@given(st.binary(max_size=99), st.integers(0, 99), st.integers(0, 2**40), st.text(max_size=200))
def test_any_masked_answer_comes_back(content: bytes, bits: int, values: int, signature: str) -> None:
    """Whether its lengths are those that were agreed, and who has signed it, is asked by whoever adds it up."""
    masked = Masked(np.frombuffer(content, np.uint8), bits, values, 3, signature)
    assert same(reply_from_bytes(reply_to_bytes(masked)), masked)


@pytest.mark.parametrize("step", REQUESTS[6:], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ({"about": "everything"}, "entry"),
        ({"about": ""}, "entry"),
        ({"about": None}, "entry"),
        ({"about": 1}, "entry"),
        ({"split": "test"}, "entry"),
        ({"length": 16}, "array"),
        ({"length": None}, "entry"),
        ({"kind": "offered"}, "kind"),
        ({"kind": "train"}, "entry"),
    ],
    ids=str,
)
def test_a_step_with_a_wrong_entry_is_refused(step: Request, entries: dict[str, Any], code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        request_from_bytes(changed(request_to_bytes(step), **entries))
    assert caught.value.code == code


@pytest.mark.parametrize("reply", REPLIES[5:], ids=lambda one: type(one).__name__)
def test_a_paper_that_is_cut_or_is_called_something_else_is_refused(reply: Reply) -> None:
    content = reply_to_bytes(reply)
    for broken in (content[:-1], content + b"\0", changed(content, kind="deal"), changed(content, about="train")):
        with pytest.raises(ProtocolError):
            reply_from_bytes(broken)


def test_what_is_said_of_a_step_is_in_its_bytes() -> None:
    """Else a digest, and the signature over it, would hold for another question of the same run."""
    step = REQUESTS[6]
    assert isinstance(step, Deal)
    others: list[Request] = [
        Mask(step.envelope, step.about, step.content),
        dataclasses.replace(step, about="test"),
        dataclasses.replace(step, content=step.content[:-1]),
        dataclasses.replace(step, envelope=dataclasses.replace(ENVELOPE, round=4)),
        dataclasses.replace(step, envelope=dataclasses.replace(ENVELOPE, run="run-2")),
    ]
    assert len({request_to_bytes(one) for one in (step, *others)}) == 6


def test_a_greeting_carries_the_roster_of_a_thousand_sites_and_says_where_there_is_none() -> None:
    """A site's entry in a roster is about 700 bytes, and JSON doubles what it must escape."""
    greeting = Hello(ENVELOPE, '{"site": "aachen"}\n' * 50_000)
    assert same(request_from_bytes(request_to_bytes(greeting)), greeting)
    assert request_from_bytes(request_to_bytes(Hello(ENVELOPE))) == Hello(ENVELOPE, "")
    with pytest.raises(ProtocolError):
        request_from_bytes(changed(request_to_bytes(greeting), roster=None))


@pytest.mark.parametrize(("bits", "size"), [(8, 1), (9, 2), (16, 2), (20, 3), (24, 3), (25, 4), (32, 4)])
def test_an_update_takes_as_many_bytes_as_its_bits_say(bits: Bits, size: int) -> None:
    content = reply_to_bytes(Update(np.zeros(1000, np.int32), bits, 1, "s", 0, 1, 0))
    assert len(content) - content.index(b"\n") - 1 == 1000 * size
    assert (content.index(b"\n") + 1) % 64 == 0


def test_integers_are_little_endian_and_may_look_like_an_end_of_line() -> None:
    reply = Measured(np.full(5, 0x0A0A0A0A0A0A0A0A, np.int64).astype(">i8"), "schema\nof two lines")
    content = reply_to_bytes(reply)
    assert content.endswith(b"\x0a" * 40)
    again = reply_from_bytes(content)
    assert isinstance(again, Measured)
    assert again.schema == "schema\nof two lines"
    assert reply_to_bytes(Update(np.array([1, -2], np.int32), 32, 1, "s", 0, 0, 0)).endswith(
        b"\x01\x00\x00\x00\xfe\xff\xff\xff"
    )


def everything() -> dict[str, Any]:
    """First line and digest of every message, for a golden file."""
    said = {type(one).__name__: request_to_bytes(one) for one in REQUESTS}
    said |= {type(one).__name__: reply_to_bytes(one) for one in REPLIES}
    return {
        name: [content.partition(b"\n")[0].decode(), hashlib.sha256(content).hexdigest()]
        for name, content in said.items()
    }


def test_the_bytes_are_those_of_the_golden_file() -> None:
    """Whoever changes them raises ``FORMAT`` and regenerates: python tests/golden/regenerate.py."""
    assert everything() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ({"format": "consilium-message-2"}, "format"),
        ({"format": None}, "format"),
        ({"kind": "explode"}, "kind"),
        ({"kind": ["train"]}, "kind"),
        ({"round": "3"}, "entry"),
        ({"round": None}, "entry"),
        ({"round": True}, "entry"),
        ({"round": 3.0}, "entry"),
        ({"plan_digest": 7}, "entry"),
        ({"split": "everything"}, "entry"),
        ({"patient": "x"}, "entry"),
        ({"length": 4}, "array"),
        ({"length": -3}, "array"),
        ({"length": 1 << 60}, "array"),
    ],
    ids=str,
)
def test_a_request_with_a_wrong_entry_is_refused(entries: dict[str, Any], code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        request_from_bytes(changed(request_to_bytes(REQUESTS[2]), **entries))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "entries",
    [
        {"weight": True},
        {"weight": None},
        {"steps": 1.5},
        {"bits": 7},
        {"bits": 33},
        {"bits": 24},
        {"seconds": 1},
        {"schema": []},
    ],
    ids=str,
)
def test_a_reply_with_a_wrong_entry_is_refused(entries: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        reply_from_bytes(changed(reply_to_bytes(REPLIES[1]), **entries))


def test_a_number_that_json_does_not_know_is_refused() -> None:
    content = reply_to_bytes(REPLIES[2]).replace(b'"seconds":0.25', b'"seconds":NaN ')
    with pytest.raises(ProtocolError):
        reply_from_bytes(content)


@pytest.mark.parametrize("fingerprint", [[["a"]], [["a", 1]], ["ab"], [["a", "b", "c"]], [{"a": "b"}]], ids=str)
def test_a_fingerprint_that_is_no_list_of_names_with_values_is_refused(fingerprint: list[Any]) -> None:
    with pytest.raises(ProtocolError, match="fingerprint"):
        reply_from_bytes(changed(reply_to_bytes(REPLIES[0]), fingerprint=fingerprint))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\x00\xff\x00",
        b"[1, 2]\n",
        b'"consilium-message-1"\n',
        b'{"kind": "update"}\n',
        b"[" * 100_000 + b"\n",
        b" " * (LONGEST_HEAD + 1) + b"\n",
        b"PK\x03\x04 an archive",
        b"\x80\x04\x95 a pickle",
    ],
    ids=["nothing", "empty line", "noise", "list", "string", "no format", "deep", "long", "archive", "pickle"],
)
def test_bytes_of_anything_else_are_refused(content: bytes) -> None:
    assert refused(content) == {"format"}


def test_another_way_of_writing_the_same_message_is_refused() -> None:
    """Two forms of one message would have two digests."""
    content = request_to_bytes(REQUESTS[0])
    looser = json.dumps(json.loads(content)).encode()
    spaced = looser + b" " * (-(len(looser) + 1) % 64) + b"\n"
    assert json.loads(spaced) == json.loads(content)
    with pytest.raises(ProtocolError, match="one form"):
        request_from_bytes(spaced)


def test_a_request_is_no_reply_and_a_reply_no_request() -> None:
    with pytest.raises(ProtocolError):
        reply_from_bytes(request_to_bytes(REQUESTS[0]))
    with pytest.raises(ProtocolError):
        request_from_bytes(reply_to_bytes(REPLIES[3]))


@pytest.mark.parametrize("at", range(3))
def test_a_cut_or_lengthened_message_is_refused(at: int) -> None:
    for content, read in ((request_to_bytes(REQUESTS[at]), request_from_bytes),):
        for broken in (content[:-1], content + b"\0", content[: len(content) // 2]):
            with pytest.raises(ProtocolError):
                read(broken)


def test_thousands_of_damaged_messages_are_read_or_refused_and_nothing_else() -> None:
    draw = random.Random(6)
    for _ in range(3000):
        content = bytearray(reply_to_bytes(draw.choice(REPLIES)))
        for _ in range(draw.randint(1, 6)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        try:
            read = reply_from_bytes(bytes(content))
        except ProtocolError:
            continue
        assert reply_to_bytes(read) == bytes(content)
