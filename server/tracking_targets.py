"""Points into MLflow and TensorBoard.

Promises
- Nothing here is needed to train: each tracker is an optional extra, and without it the error names the line to type.
- TensorBoard's event file is a function of the run alone: the same bytes on every machine, without host, user or date
  (the wall clock starts at 0 with the first round). While a run goes on the file only grows, as a TensorBoard that
  reads it expects; a file that does not begin like the new one is replaced whole.
- In MLflow a run is found again by its tag ``consilium.identity`` and given the rounds that it lacks.
- MLflow's telemetry is off, and an address is never repeated in an error: it may hold a password.

Rules
- MLflow has put its plain-file store into maintenance and refuses it unless asked. A folder is such a store and is
  asked for; ``sqlite:///FILE`` is the local store that it recommends.
- A point that was sent before a crash and not recorded may be sent twice, with the same round and value.

Leaves to others: what is sent (``server.tracking``).
"""

from __future__ import annotations

import importlib
import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from shared.durable import SHARED, replace_file
from shared.errors import RunError

EVENTS = "events.out.tfevents.0000000000.consilium"
IDENTITY, ROUNDS_SENT = "consilium.identity", "consilium.rounds_sent"
_AT_ONCE = 100
"""Most parameters of one MLflow request; its limit for metrics is 1,000."""
_LONGEST_VALUE = 500
_FINISHED = "FINISHED"
_MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    # A server that is down is told in seconds, not after minutes of retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One number: its name, the round it belongs to, and seconds since the run began."""

    name: str
    value: float
    step: int
    at_s: float


@dataclass(frozen=True)
class Tracked:
    """One run as trackers see it.

    Attributes:
        experiment: the plan's name; runs of one plan name stand together.
        name: what a person reads.
        identity: what tells this run from others.
        parameters: the plan's keys, by dotted name.
        tags: digests, versions, seed.
        rounds: numbers by round, in order; there is at least one.
        final: the final numbers; empty while the run goes on.
        plan_text: the plan as it lies in the folder.
    """

    experiment: str
    name: str
    identity: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    rounds: tuple[Point, ...]
    final: tuple[Point, ...]
    plan_text: str


def to_tensorboard(run: Tracked, address: str, _now_s: float) -> str:
    """Write or continue the event file of ``run`` in a folder of its own below ``address``."""
    path, content = Path(address) / f"{run.name}-{run.identity[:8]}" / EVENTS, event_file(run)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _continue(path, content)
    except OSError as error:
        raise RunError(
            f"the event file for TensorBoard cannot be written: {error.strerror}",
            hint="name a folder that you may write to after tensorboard:",
        ) from None
    return f"tensorboard --logdir {address}"


def _continue(path: Path, content: bytes) -> None:
    there = path.read_bytes() if path.exists() else b""
    if not there or not content.startswith(there):
        replace_file(path, content, SHARED)
        return
    with path.open("ab") as file:
        file.write(content[len(there) :])
        file.flush()
        os.fsync(file.fileno())


def event_file(run: Tracked) -> bytes:
    """The event file of ``run``: version, plan as text, one event a round, the final one; raises ``RunError``."""
    events = _needed("tensorboard.compat.proto.event_pb2", "tensorboard")
    summaries = _needed("tensorboard.compat.proto.summary_pb2", "tensorboard")
    buffer = io.BytesIO()
    writer = _needed("tensorboard.summary.writer.record_writer", "tensorboard").RecordWriter(buffer)
    writer.write(events.Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    writer.write(events.Event(wall_time=0.0, step=0, summary=_plan_text(run)).SerializeToString())
    by_round = [list(points) for _, points in groupby(run.rounds, key=lambda point: point.step)]
    for points in [*by_round, list(run.final)]:
        if points:
            values = [summaries.Summary.Value(tag=point.name, simple_value=point.value) for point in points]
            summary = summaries.Summary(value=values)
            writer.write(
                events.Event(wall_time=points[0].at_s, step=points[0].step, summary=summary).SerializeToString()
            )
    return buffer.getvalue()


def _plan_text(run: Tracked) -> Any:  # noqa: ANN401 - a type of the optional extra
    metadata = _needed("tensorboard.plugins.text.metadata", "tensorboard")
    summaries = _needed("tensorboard.compat.proto.summary_pb2", "tensorboard")
    tensors = _needed("tensorboard.compat.proto.tensor_pb2", "tensorboard")
    types = _needed("tensorboard.compat.proto.types_pb2", "tensorboard")
    text = f"```toml\n{run.plan_text}```\n"
    return summaries.Summary(
        value=[
            summaries.Summary.Value(
                tag="plan",
                metadata=metadata.create_summary_metadata("plan", ""),
                tensor=tensors.TensorProto(dtype=types.DT_STRING, string_val=[text.encode()]),
            )
        ]
    )


def to_mlflow(run: Tracked, address: str, now_s: float) -> str:
    """Create the MLflow run, or find it again, and send what it lacks."""
    os.environ.update({name: value for name, value in _MLFLOW_SETTINGS.items() if name not in os.environ})
    mlflow, exceptions = _needed("mlflow", "mlflow"), _needed("mlflow.exceptions", "mlflow")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    uri = address if "://" in address else Path(address).resolve().as_uri()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        run_id = _send(client, run, now_s)
    except (exceptions.MlflowException, OSError, ImportError) as error:
        raise RunError(
            f"MLflow did not take the run ({type(error).__name__})",
            hint="check the address after mlflow: and that the server runs; a local store is a folder or sqlite:///FILE",
        ) from None
    return f"MLflow experiment {run.experiment}, run {run_id}"


def _send(client: Any, run: Tracked, now_s: float) -> str:  # noqa: ANN401 - a type of the optional extra
    entities = importlib.import_module("mlflow.entities")
    there = _find_or_create(client, run, now_s)
    run_id, began_ms = str(there.info.run_id), there.info.start_time
    lacking = [point for point in run.rounds if point.step > int(there.data.tags.get(ROUNDS_SENT, "0"))]
    lacking += run.final if there.info.status != _FINISHED else ()
    for some in _batches(run.parameters.items()):
        client.log_batch(run_id, params=[entities.Param(name, value[:_LONGEST_VALUE]) for name, value in some])
    for some in _batches(lacking):
        metrics = [entities.Metric(of.name, of.value, began_ms + round(1000 * of.at_s), of.step) for of in some]
        client.log_batch(run_id, metrics=metrics)
    said = {**run.tags, ROUNDS_SENT: str(run.rounds[-1].step)}
    client.log_batch(run_id, tags=[entities.RunTag(name, value) for name, value in said.items()])
    if run.final:
        client.set_terminated(run_id, _FINISHED, began_ms + round(1000 * run.final[-1].at_s))
    return run_id


def _find_or_create(client: Any, run: Tracked, now_s: float) -> Any:  # noqa: ANN401 - types of the optional extra
    known = client.get_experiment_by_name(run.experiment)
    experiment = known.experiment_id if known else client.create_experiment(run.experiment)
    found = client.search_runs([experiment], f"tags.`{IDENTITY}` = '{run.identity}'")
    if found:
        return found[0]
    began_ms = round(1000 * (now_s - run.rounds[-1].at_s))
    return client.create_run(experiment, began_ms, {IDENTITY: run.identity}, run.name)


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    every = list(items)
    for start in range(0, len(every), _AT_ONCE):
        yield every[start : start + _AT_ONCE]


def _needed(module: str, extra: str) -> Any:  # noqa: ANN401 - a module of an optional extra
    try:
        return importlib.import_module(module)
    except ImportError:
        raise RunError(
            f"tracking to {extra} needs a package that is not installed",
            hint="pip install -c constraints.txt 'consilium[tracking]'",
        ) from None
