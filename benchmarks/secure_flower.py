"""Flower's legacy SecAgg+ by the same measure: its own workflow and its own client mod, without a network between.

What is Flower's here: ``SecAggPlusWorkflow``, ``secaggplus_mod`` and the FedAvg strategy of its legacy API, with keys,
shares, masks, quantisation and sums, and the writing and reading of each message's content as protocol buffers.
What is ours: a grid that hands messages over in this process, one client after the other, and clients that answer with
a change that is there already. Nothing of Flower's transport is timed.

Promises
- CPU seconds are split by who works. The sum is compared with the mean of the changes, within the rounding.
- Clients that drop out have sent shares of their keys, and an error in place of masked values.
- Weights are equal (``max_weight`` 1), everybody is everybody's neighbour, and as many shares are needed as in ours.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.compat.common import recorddict_compat
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.server import LegacyContext, SimpleClientManager
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray
from secure_arm import as_in_the_second_round, changes

from shared.secure.holders import two_thirds

SERVER = 0
_RANGE = 1.0
_LEVELS = 2**22
"""Flower's default for the grid; its default range is 8."""
Reals = NDArray[np.float32]


class Handed:
    """Stands for Flower's grid: calls each client's mod, and keeps the accounts."""

    def __init__(self, drawn: Mapping[int, Reals], dropped: Collection[int]) -> None:
        self.seconds: defaultdict[int, float] = defaultdict(float)
        self.up: Counter[int] = Counter()
        self.down: Counter[int] = Counter()
        self._drawn, self._dropped = drawn, dropped
        self._contexts = {node: _context(node) for node in drawn}
        self._began = 0.0

    def start(self) -> None:
        """The server works from now on."""
        self._began = time.process_time()

    def stop(self) -> None:
        """The server has worked until now."""
        self.seconds[SERVER] += time.process_time() - self._began

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Every client's reply; nothing takes longer than ``timeout``."""
        del timeout
        return [self._reply(message) for message in messages]

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        written = _written(message)
        self.down[node] += len(written)
        if _stage(message) == Stage.COLLECT_MASKED_VECTORS and node in self._dropped:
            return Message(Error(0, "dropped out"), reply_to=message)
        self.stop()
        began = time.process_time()
        message.content = _read(written)
        reply: Message = secaggplus_mod(message, self._contexts[node], lambda *_: _fitted(message, self._drawn[node]))
        content = _written(reply)
        self.seconds[node] += time.process_time() - began
        self.up[node] += len(content)
        self.start()
        reply.content = _read(content)
        return reply


def sums(sites: int, length: int, dropped: int) -> dict[str, float]:
    """Figures of one round, as ``secure_arm.Ledger.summary`` has them."""
    # Its integers have 64 bits.
    as_in_the_second_round(2 * length)
    nodes = range(1, sites + 1)
    drawn = dict(changes(list(nodes), length))
    left = nodes[: sites - dropped]
    grid, context = Handed(drawn, set(nodes) - set(left)), _legacy(nodes, length)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SERVER, 1
    workflow = SecAggPlusWorkflow(
        1.0, two_thirds(sites), max_weight=1.0, clipping_range=_RANGE, quantization_range=_LEVELS
    )
    grid.start()
    workflow(cast("Any", grid), context)
    grid.stop()
    found = recorddict_compat.arrayrecord_to_parameters(
        context.state.array_records[MAIN_PARAMS_RECORD], keep_input=True
    )
    _require_mean(parameters_to_ndarrays(found)[0], [drawn[node] for node in left])
    return {
        "dropped": float(dropped),
        "site_s": median(grid.seconds[node] for node in left),
        "coordinator_s": grid.seconds[SERVER],
        "up": float(max(grid.up[node] for node in left)),
        "down": float(max(grid.down[node] for node in left)),
    }


def _require_mean(found: NDArray[Any], drawn: Sequence[Reals]) -> None:
    """Within the rounding of each client, and of the strategy's float32."""
    mean = np.zeros(found.shape)
    for change in drawn:
        mean += np.clip(change, -_RANGE, _RANGE) / len(drawn)
    if not float(np.max(np.abs(found - mean))) < 2 * 2 * _RANGE / _LEVELS:
        raise RuntimeError(f"SecAgg+ of {len(drawn)} clients is not the mean of their changes")


def _legacy(nodes: Sequence[int], length: int) -> LegacyContext:
    """What the workflow wants to know: a strategy that asks everybody, and a model of zeros."""
    manager: Any = SimpleClientManager()
    for node in nodes:
        manager.clients[str(node)] = SimpleNamespace(cid=str(node), node_id=node)
    strategy = FedAvg(fraction_fit=1.0, min_fit_clients=len(nodes), min_available_clients=len(nodes))
    context = LegacyContext(_context(SERVER), strategy=strategy, client_manager=manager)
    model = ndarrays_to_parameters([np.zeros(length, np.float32)])
    context.state.array_records[MAIN_PARAMS_RECORD] = recorddict_compat.parameters_to_arrayrecord(
        model, keep_input=True
    )
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    return context


def _context(node: int) -> Context:
    return Context(1, node, {}, RecordDict(), {})


def _fitted(asked: Message, change: Reals) -> Message:
    """A client's answer before it is masked."""
    fitted = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([change]), 1, {})
    return Message(recorddict_compat.fitres_to_recorddict(fitted, keep_input=False), reply_to=asked)


def _stage(message: Message) -> Any:  # noqa: ANN401 - Flower's records hold anything
    return message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]


def _written(message: Message) -> bytes:
    content: bytes = recorddict_to_proto(message.content).SerializeToString()
    return content


def _read(content: bytes) -> RecordDict:
    return recorddict_from_proto(ProtoRecordDict.FromString(content))
