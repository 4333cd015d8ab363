"""One process or several: the same answers, whole errors, deadlines, and workers that end with their parent."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from picture_hospitals import write_hospitals
from small_hospitals import scenario

from client.workbench import Workbench
from server.fleet import Fleet
from shared.errors import CapacityError, PlanError, SiteDataError
from shared.messages import Envelope, Hello, Refusal, Reply, Request, Train, Update, Welcome
from shared.plan import Plan
from simulations.cohorts import freeze_cohorts, prepare_stores
from simulations.engine import LocalFleet
from simulations.federation import find_hospitals
from simulations.progress import Silent
from simulations.workers import Pool, Sites, SiteSpec, default_workers

SPECS = tuple[SiteSpec, ...]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, SPECS]:
    """Three small sites and one whose cases are all unusable."""
    folder = write_hospitals(tmp_path_factory.mktemp("workers"), {"aachen": 6, "bergen": 6, "coimbra": 6, "dublin": 1})
    for path in (folder / "dublin").iterdir():
        path.unlink()
    setting = scenario(folder)
    pool = Pool(Sites(setting.plan, folder / "run"), workers=1)
    hospitals = find_hospitals(setting, folder, folder / "run", pool, Silent())
    cohorts = freeze_cohorts(hospitals, folder / "run", pool, Silent())
    return setting.plan, folder / "run", prepare_stores(cohorts, folder / "run", pool, Silent())


@pytest.fixture(scope="module")
def two(prepared: tuple[Plan, Path, SPECS]) -> Iterator[Pool]:
    """Two processes that start when this one has a network and a memory map open; for tests that leave them alive."""
    plan, folder, specs = prepared
    with Pool(Sites(plan, folder), workers=2) as pool:
        pool.sites.site(specs[0])
        yield pool


@pytest.fixture
def one(prepared: tuple[Plan, Path, SPECS]) -> Pool:
    plan, folder, _ = prepared
    return Pool(Sites(plan, folder), workers=1)


def square(_sites: Sites, number: int) -> int:
    return number * number


def who(_sites: Sites) -> tuple[int, int, bool]:
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    return os.getpid(), torch.get_num_threads(), blocked


def refuse(_sites: Sites, number: int) -> int:
    raise SiteDataError(f"{number} cases are too few", hint="add some", code="too-few")


def fill_the_disk(_sites: Sites) -> None:
    raise OSError(28, "No space left on device")


def wait_for(_sites: Sites, seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def wait_for_file(_sites: Sites, path: Path) -> bool:
    wait_until(path.exists)
    return True


def tell_and_wait(_sites: Sites, started: Path) -> None:
    started.touch()
    time.sleep(300)


def die(_sites: Sites) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def opened_with(sites: Sites, spec: SiteSpec) -> list[str]:
    sites.site(spec)
    return list(sites._sites)


def wait_until(happened: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def requests(plan: Plan, specs: SPECS) -> dict[str, Request]:
    train = Train(Envelope("run", plan.digest(), 1), Workbench.for_plan(plan).initial_weights())
    return {spec.name: train for spec in specs}


def updates(pool: Pool, specs: SPECS) -> dict[str, Reply]:
    return dict(LocalFleet(pool, specs).ask(requests(pool.sites.plan, specs), 60.0))


def test_one_worker_is_this_process_and_answers_in_the_order_of_the_requests(one: Pool) -> None:
    assert list(one.each(square, {"c": (3,), "a": (1,), "b": (2,)})) == [("c", 9), ("a", 1), ("b", 4)]
    ((_, (process, threads, _)),) = one.each(who, {"x": ()})
    assert (process, threads) == (os.getpid(), 1)


def test_two_workers_are_other_processes_with_one_thread_each_that_ctrl_c_does_not_reach(two: Pool) -> None:
    found = [result for _, result in two.each(who, {str(number): () for number in range(4)})]
    assert os.getpid() not in {process for process, _, _ in found}
    assert {threads for _, threads, _ in found} == {1}
    assert all(blocked for _, _, blocked in found)


def test_submitting_work_leaves_ctrl_c_as_it_was_here(two: Pool) -> None:
    assert dict(two.each(square, {"a": (2,)})) == {"a": 4}
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_one_and_two_workers_give_the_same_updates_to_the_bit(
    one: Pool, two: Pool, prepared: tuple[Plan, Path, SPECS]
) -> None:
    _, _, specs = prepared
    here, there = updates(one, specs[:3]), updates(two, specs[:3])
    assert here.keys() == there.keys() == {"aachen", "bergen", "coimbra"}
    for name, update in here.items():
        other = there[name]
        assert isinstance(update, Update)
        assert isinstance(other, Update)
        np.testing.assert_array_equal(update.values, other.values)
        assert dataclasses.replace(update, values=other.values, seconds=0.0).loss_sum == other.loss_sum
        assert (update.schema, update.weight, update.steps) == (other.schema, other.weight, other.steps)


def test_asking_twice_gives_the_same_update_whatever_was_asked_in_between(
    one: Pool, prepared: tuple[Plan, Path, SPECS]
) -> None:
    _, _, specs = prepared
    first = updates(one, specs[:1])
    updates(one, specs[1:3])
    again = updates(one, specs[:1])
    np.testing.assert_array_equal(first["aachen"].values, again["aachen"].values)  # type: ignore[union-attr]


@pytest.mark.parametrize("workers", ["one", "two"])
def test_an_error_crosses_with_its_sentence_hint_and_code(workers: str, request: pytest.FixtureRequest) -> None:
    pool: Pool = request.getfixturevalue(workers)
    with pytest.raises(SiteDataError, match="3 cases are too few") as refused:
        list(pool.each(refuse, {"a": (3,)}))
    assert (refused.value.hint, refused.value.code) == ("add some", "too-few")


@pytest.mark.parametrize("workers", ["one", "two"])
def test_a_full_disk_crosses_as_a_full_disk(workers: str, request: pytest.FixtureRequest) -> None:
    pool: Pool = request.getfixturevalue(workers)
    with pytest.raises(OSError, match="No space left") as refused:
        list(pool.each(fill_the_disk, {"a": ()}))
    assert refused.value.errno == 28


@pytest.mark.parametrize("workers", ["one", "two"])
def test_a_site_that_cannot_be_opened_answers_with_a_refusal_and_the_others_answer(
    workers: str, request: pytest.FixtureRequest, prepared: tuple[Plan, Path, SPECS]
) -> None:
    plan, _, specs = prepared
    hello = Hello(Envelope("run", plan.digest(), 0))
    fleet: Fleet = LocalFleet(request.getfixturevalue(workers), specs)
    replies = dict(fleet.ask({spec.name: hello for spec in specs}, 60.0))
    refused = replies.pop("dublin")
    assert isinstance(refused, Refusal)
    assert refused.code == "empty-site"
    assert refused.sentence == "this site is empty: 0 usable cases, 2 unusable (2 image-missing)"
    assert all(isinstance(reply, Welcome) for reply in replies.values())
    assert len(replies) == 3


def test_after_the_deadline_nobody_is_waited_for(two: Pool, tmp_path: Path) -> None:
    """The late one ends only when it is told to, after the others were counted."""
    told = tmp_path / "told"
    assert dict(two.each(wait_for, {"one": (0.3,), "other": (0.3,)})), "both processes are there"
    found = dict(two.each(wait_for_file, {"quick": (tmp_path,), "late": (told,)}, deadline_s=4.0))
    assert found == {"quick": True}
    told.touch()


def test_in_one_process_what_ended_after_the_deadline_does_not_count(one: Pool) -> None:
    found = dict(one.each(wait_for, {"quick": (0.0,), "slow": (0.2,), "never": (60.0,)}, deadline_s=0.1))
    assert found == {"quick": 0.0}


def test_a_worker_that_was_killed_is_a_sentence_and_not_a_traceback(prepared: tuple[Plan, Path, SPECS]) -> None:
    plan, folder, _ = prepared
    with pytest.raises(CapacityError, match="killed from outside") as lost, Pool(Sites(plan, folder), 2) as pool:
        list(pool.each(die, {"a": ()}))
    assert lost.value.code == "worker-killed"
    assert "--workers" in lost.value.hint


def test_what_is_open_here_neither_hinders_workers_nor_reaches_them(
    two: Pool, prepared: tuple[Plan, Path, SPECS]
) -> None:
    """A network, a task and a memory map cannot be sent; a worker has what it opened itself."""
    _, _, specs = prepared
    assert list(two.sites._sites) == ["aachen"]
    opened = dict(two.each(opened_with, {"b": (specs[1],)}))
    assert "bergen" in opened["b"]
    assert list(two.sites._sites) == ["aachen"]


def test_an_error_ends_workers_in_the_middle_of_their_work(prepared: tuple[Plan, Path, SPECS], tmp_path: Path) -> None:
    plan, folder, _ = prepared
    pool = Pool(Sites(plan, folder), workers=2)
    list(pool.each(tell_and_wait, {"slow": (tmp_path / "started",)}, deadline_s=0.0))
    wait_until((tmp_path / "started").exists)
    began = time.monotonic()
    with pytest.raises(PlanError, match="enough"), pool:
        raise PlanError("enough")
    assert time.monotonic() - began < 200.0


def test_a_site_is_opened_once_and_shares_the_process_s_network(
    prepared: tuple[Plan, Path, SPECS],
) -> None:
    plan, folder, specs = prepared
    sites = Sites(plan, folder)
    first, other = sites.site(specs[0]), sites.site(specs[1])
    assert sites.site(specs[0]) is first
    assert first.workbench is other.workbench is sites.workbench
    assert first.folder == folder / "sites" / "aachen"


def test_a_cpu_has_a_worker_a_core_and_a_gpu_one() -> None:
    assert default_workers(torch.device("cpu")) == len(os.sched_getaffinity(0))
    assert default_workers(torch.device("cuda")) == 1


PARENT = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    from simulations.workers import Pool, Sites
    from shared.plan import load

    def report(_sites):
        print(os.getpid(), flush=True)
        time.sleep(300)

    if __name__ == "__main__":
        with Pool(Sites(load(Path(sys.argv[1])), Path(".")), workers=2) as pool:
            list(pool.each(report, {"a": (), "b": ()}))
    """
)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path: Path, sent: signal.Signals) -> None:
    """SIGINT goes to the whole group, as a terminal sends it; SIGKILL to the parent alone."""
    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "plan.toml").write_text(plan_text(tmp_path))
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "plan.toml")]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    pipe = subprocess.PIPE
    parent = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, process_group=0, env=here)
    assert parent.stdout is not None
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(alive(worker) for worker in workers)
    (os.kill if sent == signal.SIGKILL else os.killpg)(parent.pid, sent)
    _, err = parent.communicate(timeout=300)
    assert parent.returncode == -sent
    assert err.count("Traceback") == (1 if sent == signal.SIGINT else 0), "the parent's, where there is one"
    wait_until(lambda: not any(map(alive, workers)))


STARTED_BY_ANOTHER = textwrap.dedent(
    """
    import signal, sys
    from multiprocessing import forkserver
    from pathlib import Path
    from simulations.workers import Pool, Sites
    from shared.plan import load

    def blocked(_sites):
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())

    if __name__ == "__main__":
        forkserver.ensure_running()
        with Pool(Sites(load(Path(sys.argv[1])), Path(".")), workers=2) as pool:
            print([found for _, found in pool.each(blocked, {"a": (), "b": ()})])
    """
)


def test_a_fork_server_that_somebody_else_has_started_lets_no_ctrl_c_through(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(STARTED_BY_ANOTHER)
    (tmp_path / "plan.toml").write_text(plan_text(tmp_path))
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "plan.toml")]
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=here)
    assert done.stdout.strip() == "[True, True]"


def alive(process: int) -> bool:
    """Whether it runs; one that ended and that nobody has asked about (a zombie) does not."""
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def plan_text(folder: Path) -> str:
    return tomli_w.dumps(scenario(folder).plan.model_dump(mode="json", exclude_none=True))
