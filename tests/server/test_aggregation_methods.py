"""Server optimizers: the papers' formulas in float64, Flower's strategies fed with the same updates, and resuming."""

from __future__ import annotations

import math
import warnings
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from server.aggregation.average import RunningMean, in_tail
from server.aggregation.methods import METHODS, ServerState
from shared.errors import RunError
from shared.plan import Aggregation

with warnings.catch_warnings():
    # Flower imports typer, which asks click for a name that is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedYogi
    from flwr.supercore.task_identity import TaskIdentity

SIZE, ROUNDS, SITES = 30, 6, 3
COUNTS = (10, 25, 5)
Reals = NDArray[np.float64]


def settings(method: str = "fedavg", **changes: Any) -> Aggregation:
    mu = {"proximal_mu": 0.1} if method == "fedprox" else {}
    return Aggregation.model_validate({"method": method, **mu, **changes})


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def initial() -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(size=SIZE).astype(np.float32)


def site_changes() -> NDArray[np.float32]:
    """What each site changed in each round, shape (ROUNDS, SITES, SIZE)."""
    return np.random.default_rng(8).normal(0, 0.05, (ROUNDS, SITES, SIZE)).astype(np.float32)


def mean_changes() -> NDArray[np.float32]:
    return np.average(site_changes().astype(np.float64), axis=1, weights=COUNTS).astype(np.float32)


def run(method: str, chosen: Aggregation, state: ServerState | None = None) -> ServerState:
    state = state or ServerState.start(initial())
    for change in mean_changes():
        state, weights = METHODS[method](state, change, chosen)
        assert weights is state.weights
    return state


def test_every_method_that_a_plan_can_name_is_in_the_table() -> None:
    assert set(METHODS) == set(get_args(Aggregation.model_fields["method"].annotation))
    assert METHODS


@pytest.mark.parametrize("method", ["fedavg", "fedprox"])
def test_averaging_moves_by_the_mean_change(method: str) -> None:
    assert np.allclose(run(method, settings(method)).weights, initial() + mean_changes().sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_the_server_learning_rate_scales_the_step(rate: float) -> None:
    _, weights = METHODS["fedavg"](
        ServerState.start(floats(1, 2)), floats(0.5, -1), settings(server_learning_rate=rate)
    )
    assert weights.tolist() == [1 + 0.5 * rate, 2 - rate]


def test_momentum_is_a_running_sum_with_decay() -> None:
    chosen = settings("fedavgm", server_momentum=0.5, server_learning_rate=2.0)
    state, _ = METHODS["fedavgm"](ServerState.start(floats(0)), floats(1), chosen)
    state, weights = METHODS["fedavgm"](state, floats(1), chosen)
    assert weights.tolist() == [2 * 1 + 2 * 1.5]


def test_momentum_of_zero_is_plain_averaging() -> None:
    assert np.array_equal(run("fedavgm", settings(server_momentum=0.0)).weights, run("fedavg", settings()).weights)


def adaptive(name: str, chosen: Aggregation) -> Reals:
    """Algorithm 2 of Reddi et al. (2021), line by line in float64."""
    x, m, v = initial().astype(np.float64), np.zeros(SIZE), np.full(SIZE, chosen.tau**2)
    for delta in mean_changes().astype(np.float64):
        m = chosen.beta_1 * m + (1 - chosen.beta_1) * delta
        if name == "fedadam":
            v = chosen.beta_2 * v + (1 - chosen.beta_2) * delta**2
        else:
            v = v - (1 - chosen.beta_2) * delta**2 * np.sign(v - delta**2)
        x = x + chosen.server_learning_rate * m / (np.sqrt(v) + chosen.tau)
    return x


@pytest.mark.parametrize("method", ["fedadam", "fedyogi"])
@pytest.mark.parametrize("tau", [1e-3, 1e-1])
def test_adaptive_methods_follow_algorithm_2_of_the_paper(method: str, tau: float) -> None:
    chosen = settings(method, tau=tau, server_learning_rate=0.1, beta_1=0.8, beta_2=0.95)
    assert np.allclose(run(method, chosen).weights, adaptive(method, chosen), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["fedadam", "fedyogi"])
def test_the_other_adaptive_method_gives_other_weights(method: str) -> None:
    chosen = settings(method, server_learning_rate=0.1)
    other = "fedyogi" if method == "fedadam" else "fedadam"
    assert not np.allclose(run(method, chosen).weights, adaptive(other, chosen), rtol=1e-3)


def test_a_first_step_of_adam_has_the_size_that_the_formula_gives() -> None:
    chosen = settings("fedadam", server_learning_rate=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3)
    _, weights = METHODS["fedadam"](ServerState.start(floats(0)), floats(0.5), chosen)
    v = 0.99 * 1e-6 + 0.01 * 0.25
    assert weights[0] == pytest.approx(0.1 * 0.05 / (math.sqrt(v) + 1e-3), rel=1e-6)


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes messages only inside a run."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def reply(weights: NDArray[np.float32], count: int) -> Message:
    content = RecordDict(
        {"arrays": ArrayRecord({"w": Array(weights)}), "metrics": MetricRecord({"num-examples": count})}
    )
    return Message(content, dst_node_id=1, message_type="train")


def run_in_flower(strategy: FedAvg) -> Reals:
    """The same updates through Flower's own aggregation: sites reply with whole models."""
    weights = initial().astype(np.float64)
    for number, changes in enumerate(site_changes(), 1):
        if not isinstance(strategy, FedAvgM):
            strategy.current_arrays = {"w": weights}  # type: ignore[attr-defined]
        elif strategy.current_arrays is None:
            strategy.current_arrays = ArrayRecord({"w": Array(weights)})
        replies = [reply(weights + change, count) for change, count in zip(changes, COUNTS, strict=True)]
        aggregated, _ = strategy.aggregate_train(number, replies)
        assert aggregated is not None
        weights = aggregated["w"].numpy()
    return weights


def from_zero_moments() -> ServerState:
    """Flower starts both moments at 0."""
    return ServerState(initial(), np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32))


@pytest.mark.usefixtures("flower")
def test_plain_averaging_is_flowers_fedavg() -> None:
    assert np.allclose(run("fedavg", settings()).weights, run_in_flower(FedAvg()), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("flower")
@pytest.mark.parametrize(("rate", "momentum"), [(1.0, 0.9), (0.5, 0.3)])
def test_momentum_is_flowers_fedavgm(rate: float, momentum: float) -> None:
    expected = run_in_flower(FedAvgM(server_learning_rate=rate, server_momentum=momentum))
    chosen = settings("fedavgm", server_learning_rate=rate, server_momentum=momentum)
    assert np.allclose(run("fedavgm", chosen).weights, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("flower")
def test_yogi_is_flowers_fedyogi_from_its_starting_point() -> None:
    expected = run_in_flower(FedYogi(eta=0.05, beta_1=0.9, beta_2=0.99, tau=1e-2))
    chosen = settings("fedyogi", server_learning_rate=0.05, beta_1=0.9, beta_2=0.99, tau=1e-2)
    assert np.allclose(run("fedyogi", chosen, from_zero_moments()).weights, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("flower")
def test_adam_is_flowers_fedadam_once_its_bias_correction_is_put_into_the_learning_rate() -> None:
    expected = run_in_flower(FedAdam(eta=0.05, beta_1=0.9, beta_2=0.99, tau=1e-2))
    state = from_zero_moments()
    for number, change in enumerate(mean_changes(), 1):
        correction = math.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
        chosen = settings("fedadam", server_learning_rate=0.05 * correction, beta_1=0.9, beta_2=0.99, tau=1e-2)
        state, _ = METHODS["fedadam"](state, change, chosen)
    assert np.allclose(state.weights, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("flower")
def test_adam_without_that_correction_is_not_flowers() -> None:
    expected = run_in_flower(FedAdam(eta=0.05, beta_1=0.9, beta_2=0.99, tau=1e-2))
    chosen = settings("fedadam", server_learning_rate=0.05, beta_1=0.9, beta_2=0.99, tau=1e-2)
    assert not np.allclose(run("fedadam", chosen, from_zero_moments()).weights, expected, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_modifies_nothing_that_it_was_given(method: str) -> None:
    state, change, chosen = run(method, settings(method)), mean_changes()[0].copy(), settings(method)
    weights, moments = state.weights.copy(), {name: moment.copy() for name, moment in state.moments().items()}
    METHODS[method](state, change, chosen)
    assert np.array_equal(state.weights, weights)
    assert np.array_equal(change, mean_changes()[0])
    assert all(np.array_equal(moments[name], moment) for name, moment in state.moments().items())


@pytest.mark.parametrize("method", METHODS)
def test_weights_and_moments_stay_float32(method: str) -> None:
    state = run(method, settings(method))
    assert {array.dtype for array in (state.weights, *state.moments().values())} == {np.dtype(np.float32)}
    assert state.step == ROUNDS


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ("fedavg", set()),
        ("fedprox", set()),
        ("fedavgm", {"first_moment"}),
        ("fedadam", {"first_moment", "second_moment"}),
        ("fedyogi", {"first_moment", "second_moment"}),
    ],
)
def test_a_state_keeps_only_the_moments_that_its_method_needs(method: str, kept: set[str]) -> None:
    assert run(method, settings(method)).moments().keys() == kept


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", range(ROUNDS))
def test_a_run_that_goes_on_from_stored_values_ends_with_the_same_bits(method: str, stop: int) -> None:
    state, chosen = ServerState.start(initial()), settings(method)
    for number, change in enumerate(mean_changes()):
        if number == stop:
            stored = {name: np.frombuffer(moment.tobytes(), np.float32) for name, moment in state.moments().items()}
            state = ServerState.restore(state.weights.copy(), stored, state.step)
        state, _ = METHODS[method](state, change, chosen)
    assert state.weights.tobytes() == run(method, chosen).weights.tobytes()


@pytest.mark.parametrize("moment", [np.zeros(SIZE - 1, np.float32), np.zeros(SIZE, np.float64)])
def test_a_moment_of_another_model_is_refused(moment: NDArray[Any]) -> None:
    with pytest.raises(RunError, match="second_moment should be 30 float32 values"):
        ServerState.restore(initial(), {"second_moment": moment}, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_would_not_be_finite_stops_the_run(method: str) -> None:
    chosen = settings(method, server_learning_rate=3e38, tau=1e-6)
    with pytest.raises(RunError, match="1 weights are not finite after step 1") as caught:
        METHODS[method](ServerState.start(floats(3e38, 0)), floats(3, 0), chosen)
    assert caught.value.code == "model-not-finite"


@pytest.mark.parametrize("method", ["fedadam", "fedyogi"])
def test_a_parameter_that_never_changes_stays_where_it_is(method: str) -> None:
    state, chosen = ServerState.start(floats(1.5, 2)), settings(method)
    for _ in range(5):
        state, _ = METHODS[method](state, floats(0, 0.1), chosen)
    assert state.weights[0] == 1.5
    assert state.weights[1] > 2


@given(
    st.integers(1, 6).flatmap(
        lambda count: arrays_of.arrays(np.float32, (count, 4), elements=st.floats(-100, 100, width=32))
    )
)
def test_the_mean_of_the_last_models_is_the_mean(models: NDArray[np.float32]) -> None:
    mean = RunningMean.of(models[0])
    for model in models[1:]:
        mean = mean.add(model)
    expected = [math.fsum(column) / len(models) for column in models.T.tolist()]
    assert mean.count == len(models)
    assert mean.mean().dtype == np.float32
    assert np.allclose(mean.mean(), expected, rtol=2**-23, atol=1e-13)


def test_a_running_mean_that_was_stored_goes_on_to_the_same_bits() -> None:
    models = mean_changes()
    whole = RunningMean.of(models[0])
    for model in models[1:]:
        whole = whole.add(model)
    half = RunningMean.of(models[0]).add(models[1]).add(models[2])
    half = RunningMean(np.frombuffer(half.total.tobytes(), np.float64), half.count)
    for model in models[3:]:
        half = half.add(model)
    assert half.mean().tobytes() == whole.mean().tobytes()


def test_adding_to_a_running_mean_leaves_the_old_one_as_it_was() -> None:
    one = RunningMean.of(floats(1, 2))
    one.add(floats(3, 4))
    assert one.mean().tolist() == [1, 2]


def test_models_of_different_length_have_no_mean() -> None:
    with pytest.raises(RunError, match="models of 2 and 1 weights have no mean"):
        RunningMean.of(floats(1, 2)).add(floats(1))


@pytest.mark.parametrize(("last", "expected"), [(1, [5]), (2, [4, 5]), (5, [1, 2, 3, 4, 5]), (9, [1, 2, 3, 4, 5])])
def test_the_tail_is_the_last_rounds_of_the_plan(last: int, expected: list[int]) -> None:
    assert [number for number in range(8) if in_tail(number, 5, last) and number > 0] == expected
