"""The ServerApp's fleet with signed post, over a Grid in memory: a site is its key, whatever node it speaks from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.supercore.task_identity import TaskIdentity

from server import app
from server.post import Signed
from shared.crypto.signing import SigningKey
from shared.errors import ConsiliumError
from shared.message_bytes import reply_to_bytes, request_from_bytes
from shared.messages import Envelope, Evaluate, Hello, Measured, Refusal, Reply, Request, Train, Welcome
from shared.parcels import Body, Parcel, require_request, signed_reply
from shared.wire import parcel_from_record, parcel_to_record

SITES = ("aachen", "bergen", "coimbra")
NODES = {site: 11 + place for place, site in enumerate(SITES)}
KEYS = {site: SigningKey.generate() for site in SITES}
RUN_KEY, STRANGER = SigningKey.generate(), SigningKey.generate()
ENVELOPE = Envelope("ab" * 16, "cd" * 32, 1)
WELCOME = Welcome((("torch", "2"),), 3)
POST = Signed(b"the order", RUN_KEY, {site: key.verify_key for site, key in KEYS.items()})

Answer = Callable[[Parcel], Parcel | Error | None]


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's process sets before an app runs."""
    for name in ("run_id", "task_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


def site(name: str, reply: Reply = WELCOME, key: SigningKey | None = None) -> Answer:
    """A site that checks the run's signature and signs what it says."""

    def answer(parcel: Parcel) -> Parcel:
        require_request(parcel, RUN_KEY.verify_key, name)
        return signed_reply(reply_to_bytes(reply), name, Body.of(parcel.body).sha256, key or KEYS[name])

    return answer


@dataclass
class MemoryGrid:
    """Nodes by number; each answers a parcel with a parcel, Flower's error or nothing."""

    nodes: dict[int, Answer]
    asked: list[tuple[int, Parcel]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    pushed_together: list[int] = field(default_factory=list)
    waiting: dict[str, Message] = field(default_factory=dict)

    def get_node_ids(self) -> Iterable[int]:
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        found = list(messages)
        self.pushed_together.append(len(found))
        return [self._push(message) for message in found]

    def pull_messages(self, identifiers: Iterable[str]) -> list[Message]:
        return [self.waiting.pop(one) for one in list(identifiers) if one in self.waiting]

    def _push(self, message: Message) -> str:
        node, parcel = message.metadata.dst_node_id, parcel_from_record(message.content)
        message.metadata.__dict__["_message_id"] = f"m{len(self.asked)}"
        self.asked.append((node, parcel))
        self.kinds.append(message.metadata.message_type)
        said = self.nodes[node](parcel)
        if isinstance(said, Error):
            self.waiting[message.metadata.message_id] = Message(said, reply_to=message)
        elif said is not None:
            self.waiting[message.metadata.message_id] = Message(parcel_to_record(said), reply_to=message)
        return str(message.metadata.message_id)


def ask(answers: dict[str, Answer], request: Request | None = None, deadline_s: float = 0.3) -> dict[str, Reply]:
    """What a fleet of these sites makes of their answers."""
    grid = MemoryGrid({NODES[name]: answer for name, answer in answers.items()})
    fleet = app.GridFleet(grid, {name: NODES[name] for name in answers}, POST)  # type: ignore[arg-type]
    return dict(fleet.ask(dict.fromkeys(answers, request or Hello(ENVELOPE)), deadline_s))


def code(reply: Reply) -> str:
    assert isinstance(reply, Refusal), type(reply)
    return reply.code


def test_each_site_s_own_signature_makes_its_reply() -> None:
    assert ask({name: site(name) for name in SITES}) == dict.fromkeys(SITES, WELCOME)


def test_every_request_carries_the_order_and_is_signed_for_its_site_alone() -> None:
    grid = MemoryGrid({NODES[name]: site(name) for name in SITES})
    fleet = app.GridFleet(grid, NODES, POST)  # type: ignore[arg-type]
    list(fleet.ask(dict.fromkeys(SITES, Hello(ENVELOPE)), 0.3))
    for node, parcel in grid.asked:
        name = next(one for one, number in NODES.items() if number == node)
        assert (parcel.order, parcel.site) == (b"the order", name)
        require_request(parcel, RUN_KEY.verify_key, name)
        with pytest.raises(ConsiliumError):
            require_request(replace(parcel, site="bergen" if name != "bergen" else "aachen"), RUN_KEY.verify_key, name)


def test_one_body_goes_to_all_and_each_message_by_itself() -> None:
    grid = MemoryGrid({NODES[name]: site(name) for name in SITES})
    fleet = app.GridFleet(grid, NODES, POST)  # type: ignore[arg-type]
    list(fleet.ask(dict.fromkeys(SITES, Train(ENVELOPE, np.ones(4, np.float32))), 0.3))
    assert len({parcel.body for _, parcel in grid.asked}) == 1
    assert grid.pushed_together == [1, 1, 1]


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (Hello(ENVELOPE), "query"),
        (Train(ENVELOPE, np.ones(2, np.float32)), "train"),
        (Evaluate(ENVELOPE, np.ones(2, np.float32), "test"), "evaluate"),
    ],
    ids=["hello", "train", "evaluate"],
)
def test_flower_is_told_what_kind_of_request_it_carries_and_the_site_reads_the_same(
    request_: Request, kind: str
) -> None:
    grid = MemoryGrid({11: site("aachen")})
    fleet = app.GridFleet(grid, {"aachen": 11}, POST)  # type: ignore[arg-type]
    list(fleet.ask({"aachen": request_}, 0.3))
    assert grid.kinds == [kind]
    assert type(request_from_bytes(grid.asked[0][1].body)) is type(request_)


# --- cheating --------------------------------------------------------------------------------------------------------


def test_a_node_without_the_site_s_key_is_refused_and_the_others_count() -> None:
    found = ask({"aachen": site("aachen"), "bergen": site("bergen", key=STRANGER)})
    assert (found["aachen"], code(found["bergen"])) == (WELCOME, "signature-invalid")


def test_one_site_cannot_answer_in_another_s_place() -> None:
    """A reply that is well signed, by a site of the roster, over this very body, to somebody else's question."""

    def meddling(parcel: Parcel) -> Parcel:
        return signed_reply(reply_to_bytes(WELCOME), "coimbra", Body.of(parcel.body).sha256, KEYS["coimbra"])

    found = ask({"aachen": meddling, "coimbra": site("coimbra")})
    assert (code(found["aachen"]), found["coimbra"]) == ("site", WELCOME)


def test_an_answer_to_another_question_is_refused() -> None:
    def late(_parcel: Parcel) -> Parcel:
        return signed_reply(reply_to_bytes(WELCOME), "aachen", Body.of(b"of round 0").sha256, KEYS["aachen"])

    assert code(ask({"aachen": late})["aachen"]) == "signature-invalid"


def test_a_relay_can_say_that_its_site_does_not_answer_and_nothing_better() -> None:
    bad = Parcel("aachen", reply_to_bytes(Refusal("no-custodian", "the custodian does not answer", "start it")))
    good = Parcel("bergen", reply_to_bytes(Measured(np.arange(3), "s")))
    found = ask({"aachen": lambda _: bad, "bergen": lambda _: good})
    assert (code(found["aachen"]), code(found["bergen"])) == ("no-custodian", "unsigned")


@pytest.mark.parametrize("field_", ["body", "signature", "site"])
def test_a_signed_reply_changed_on_its_way_is_refused(field_: str) -> None:
    def tampered(parcel: Parcel) -> Parcel:
        said = site("aachen")(parcel)
        assert isinstance(said, Parcel)
        held = getattr(said, field_)
        changed = "bergen" if field_ == "site" else bytes([held[0] ^ 1]) + held[1:]
        return replace(said, **{field_: changed})

    assert code(ask({"aachen": tampered})["aachen"]) in {"signature-invalid", "signature"}


def test_flower_s_own_error_needs_no_signature_and_names_its_number() -> None:
    reply = ask({"aachen": lambda _: Error(7, "lost")})["aachen"]
    assert (code(reply), "error 7" in reply.sentence) == ("transport", True)  # type: ignore[union-attr]


def test_a_silent_site_yields_nothing_and_costs_the_others_nothing() -> None:
    assert set(ask({"aachen": site("aachen"), "bergen": lambda _: None})) == {"aachen"}


# --- finding the sites -----------------------------------------------------------------------------------------------


def found_sites(nodes: dict[int, Answer]) -> dict[str, int]:
    return app.find_sites(MemoryGrid(nodes), ENVELOPE, len(nodes), 0.3, POST)  # type: ignore[arg-type]


def anybody(name: str, key: SigningKey | None = None) -> Answer:
    """A node that answers a greeting for nobody in particular as ``name``."""

    def answer(parcel: Parcel) -> Parcel:
        return signed_reply(reply_to_bytes(WELCOME), name, Body.of(parcel.body).sha256, key or KEYS[name])

    return answer


def test_a_node_is_the_site_that_signs_there() -> None:
    assert found_sites({21: anybody("bergen"), 22: anybody("aachen")}) == {"bergen": 21, "aachen": 22}


def test_a_node_that_claims_a_site_without_its_key_takes_nothing_from_that_site() -> None:
    """Without signatures both would be refused: a stranger could shut out any site by its name."""
    assert found_sites({21: anybody("aachen"), 22: anybody("aachen", STRANGER)}) == {"aachen": 21}


def test_two_nodes_with_one_site_s_key_are_neither() -> None:
    assert found_sites({21: anybody("aachen"), 22: anybody("aachen"), 23: anybody("bergen")}) == {"bergen": 23}
