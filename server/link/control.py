"""The lead's end of Flower's control API: start, list, follow and stop runs; register and remove nodes.

Promises
- It speaks to the gateway of a folder on this machine, with the folder's token, past any proxy.
- A refusal becomes a ``RunError`` with Flower's own sentence; a gateway that is not there becomes "no-gateway".
- Flower's run number is not ours: a run of ours goes into the run configuration, as ``run``.

Nodes need no command here: the gateway makes those of the signed roster known to Flower when they connect, and turns
others away. A public key that was removed from Flower can never be registered there again (1.41 keeps it), so
``unregister_node`` is for a key that is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import httpx
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListNodesResponse,
    ListRunsRequest,
    ListRunsResponse,
    RegisterNodeRequest,
    RegisterNodeResponse,
    StartRunRequest,
    StartRunResponse,
    StopRunRequest,
    StopRunResponse,
    StreamLogsRequest,
    StreamLogsResponse,
    UnregisterNodeRequest,
    UnregisterNodeResponse,
)
from flwr.proto.fab_pb2 import Fab

from server.link.places import LinkFolder
from shared.bundle import bundle_bytes, bundle_sha256
from shared.errors import RunError
from shared.link import LOOPBACK

_UNARY, _STREAM = "application/protobuf", "application/flower-protobuf-stream"
_FRAME_BYTES = 4
_FORBIDDEN = 403
_MOST_RUNS = 1000
_SECONDS = 30.0
KEY_IN_USE = 23
"""Flower's code for a public key that is registered, or was."""


class _Message(Protocol):
    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...  # noqa: N802 - protobuf's name
    def ParseFromString(self, serialized: bytes) -> int: ...  # noqa: N802


_Answer = TypeVar("_Answer", bound=_Message)


@dataclass(frozen=True, slots=True)
class FlowerRun:
    """A run as Flower sees it.

    Attributes:
        number: Flower's own.
        state: pending, starting, running or finished.
        outcome: completed, failed or stopped, once it is finished.
        details: Flower's words for it.
        config: the run configuration it was started with.
    """

    number: int
    state: str
    outcome: str
    details: str
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """A registered SuperNode: its number, the name of its site, whether it is connected, and when it was seen last."""

    number: int
    site: str
    state: str
    public_pem: str = field(repr=False)
    seen: float | None = None


class Control:
    """The control API of one gateway. Use it in a ``with`` block."""

    def __init__(self, port: int, token: str) -> None:
        self._http = httpx.Client(
            base_url=f"http://{LOOPBACK}:{port}",
            headers={"authorization": f"Bearer {token}", "content-type": _UNARY},
            timeout=_SECONDS,
            trust_env=False,
        )

    @classmethod
    def of(cls, folder: LinkFolder) -> Control:
        """For the gateway of a folder; raises ``RunError`` where none was started yet."""
        if not (found := folder.announced()):
            raise _no_gateway()
        return cls(found["local"], folder.token())

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def start_run(self, config: Mapping[str, str], bundle: bytes | None = None) -> int:
        """Start a run of ``bundle`` (ours, where none is given) and return Flower's number for it."""
        content = bundle_bytes() if bundle is None else bundle
        request = StartRunRequest(
            fab=Fab(hash_str=bundle_sha256() if bundle is None else "", content=content),
            override_config=user_config_to_proto(dict(config)),
        )
        return self._call("start-run", request, StartRunResponse()).run_id

    def runs(self) -> tuple[FlowerRun, ...]:
        """All runs, the newest first."""
        said = self._call("list-runs", ListRunsRequest(limit=_MOST_RUNS), ListRunsResponse())
        newest = sorted(said.run_dict.values(), key=lambda run: run.pending_at, reverse=True)
        return tuple(
            FlowerRun(
                run.run_id,
                run.status.status,
                run.status.sub_status,
                run.status.details,
                {key: value.string for key, value in run.override_config.items()},
            )
            for run in newest
        )

    def run(self, number: int) -> FlowerRun:
        """One run; raises ``RunError`` where there is no such run."""
        for run in self.runs():
            if run.number == number:
                return run
        raise RunError(f"Flower knows no run {number}", hint="runs lists them", code="no-run")

    def stop_run(self, number: int) -> bool:
        """Stop a run; False where it could not be, ``RunError`` where it has ended already."""
        return bool(self._call("stop-run", StopRunRequest(run_id=number), StopRunResponse()).success)

    def log(self, number: int, after: float = 0.0) -> Iterator[tuple[str, float]]:
        """Follow a run's log until it ends: pieces, each with the time to give as ``after`` to go on behind it."""
        request = StreamLogsRequest(run_id=number, after_timestamp=after)
        for frame in self._frames("stream-logs", request):
            said = StreamLogsResponse()
            said.ParseFromString(frame)
            yield said.log_output, said.latest_timestamp

    def register_node(self, site: str, public_pem: str) -> int:
        """Make a node known to Flower, and give its number; raises ``RunError`` for a key that is or was known."""
        request = RegisterNodeRequest(public_key=public_pem.encode(), name=site)
        return self._call("register-node", request, RegisterNodeResponse()).node_id

    def unregister_node(self, number: int) -> None:
        """Remove a node for good: its key is never let in again."""
        self._call("unregister-node", UnregisterNodeRequest(node_id=number), UnregisterNodeResponse())

    def nodes(self) -> tuple[Node, ...]:
        """All nodes that are registered: registered (never seen), online, offline; removed ones as unregistered."""
        said = self._call("list-nodes", ListNodesRequest(), ListNodesResponse())
        return tuple(
            Node(
                one.node_id,
                one.name,
                one.status,
                one.public_key.decode("ascii", "replace"),
                one.online_until or None,
            )
            for one in said.nodes_info
        )

    def _call(self, call: str, request: _Message, answer: _Answer) -> _Answer:
        try:
            response = self._http.post(
                f"/v1/control/{call}", content=request.SerializeToString(deterministic=True), headers={"accept": _UNARY}
            )
        except httpx.HTTPError:
            raise _no_gateway() from None
        if response.status_code != httpx.codes.OK:
            raise _refused(call, response.status_code, response.content)
        answer.ParseFromString(response.content)
        return answer

    def _frames(self, call: str, request: _Message) -> Iterator[bytes]:
        content, pending = request.SerializeToString(deterministic=True), b""
        patience = httpx.Timeout(_SECONDS, read=None)  # a run may say nothing for hours
        headers = {"accept": _STREAM, "accept-encoding": "identity"}
        try:
            with self._http.stream(
                "POST", f"/v1/control/{call}", content=content, headers=headers, timeout=patience
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise _refused(call, response.status_code, response.read())
                for piece in response.iter_bytes():
                    pending += piece
                    while len(pending) >= _FRAME_BYTES and len(pending) >= (end := _end_of_frame(pending)):
                        yield pending[_FRAME_BYTES:end]
                        pending = pending[end:]
        except httpx.HTTPError:
            raise _no_gateway() from None


def _end_of_frame(pending: bytes) -> int:
    return _FRAME_BYTES + int.from_bytes(pending[:_FRAME_BYTES], "big")


def _no_gateway() -> RunError:
    return RunError("the gateway of this federation does not answer", hint="consilium-server start", code="no-gateway")


def _refused(call: str, status: int, body: bytes) -> RunError:
    try:
        said = json.loads(body)
        code, detail = said["code"], said["detail"]
    except (ValueError, KeyError, TypeError):
        code, detail = 0, "no reason was given"
    sentence, hint = f"{call} was refused ({status}): {detail}", "log/gateway.jsonl says more"
    if status == _FORBIDDEN:
        return RunError(sentence, hint=hint, code="forbidden")
    if code == KEY_IN_USE:
        return RunError(sentence, hint=hint, code="key-in-use")
    return RunError(sentence, hint=hint, code="refused")
