"""What is said about devices, processors and memory, against values written down here or asked of this system."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.machine import compute
from client.machine.check import Check
from client.machine.compute import Cuda, Device, cuda_checks, memory, processors, runs_on

GIB = 2**30
DEVICE = Device("Big GPU", free=70 * GIB, total=80 * GIB, capability=(9, 0))
WORKING = Cuda("2.13.0+cu130", "13.0", (13, 1), (DEVICE,), ("sm_80", "sm_90", "compute_120"))
NO_CUDA = Cuda("2.13.0+cpu", "", None, (), ())


def named(found: tuple[Check, ...]) -> dict[str, Check]:
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def verdicts(cuda: Cuda, cards: int = 1) -> dict[str, str]:
    return {name: one.verdict for name, one in named(cuda_checks(cuda, cards)).items()}


def machine(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


# --- CUDA ------------------------------------------------------------------------------------------------------------


def test_a_working_device_is_in_order_in_all_four_respects() -> None:
    found = named(cuda_checks(WORKING, 1))
    assert {one.verdict for one in found.values()} == {"ok"}
    assert found["gpu-memory"].sentence == "70.0 GiB of 80.0 GiB are free"
    assert "13.1" in found["cuda"].sentence
    assert "13.0" in found["cuda"].sentence
    assert [one.hint for one in found.values()] == ["", "", "", ""]


def test_a_machine_without_a_gpu_skips_everything_and_says_why() -> None:
    found = named(cuda_checks(NO_CUDA, 0))
    assert {one.verdict for one in found.values()} == {"skipped"}
    assert "processors" in found["gpu"].sentence
    assert all(one.sentence for one in found.values())


def test_a_card_that_torch_was_not_built_for_is_an_error_and_not_an_absent_card() -> None:
    found = named(cuda_checks(NO_CUDA, 2))
    assert found["gpu"].verdict == "error"
    assert "2 NVIDIA GPUs" in found["gpu"].sentence
    assert "CUDA build of torch" in found["gpu"].hint


def test_a_card_that_cuda_does_not_show_is_an_error() -> None:
    found = cuda_checks(replace(WORKING, devices=()), 1)
    assert named(found)["gpu"].verdict == "error"
    assert "nvidia-smi" in named(found)["gpu"].hint


@pytest.mark.parametrize(
    ("driver", "build", "verdict"),
    [
        ((13, 0), "13.0", "ok"),
        ((13, 1), "12.8", "ok"),
        ((13, 0), "13.2", "ok"),  # CUDA minor version compatibility
        ((12, 9), "13.0", "error"),
        ((11, 8), "12.1", "error"),
        (None, "13.0", "skipped"),
    ],
)
def test_a_driver_runs_builds_of_its_major_version_and_older_ones(
    driver: tuple[int, int] | None, build: str, verdict: str
) -> None:
    assert verdicts(replace(WORKING, driver=driver, build=build))["cuda"] == verdict


def test_an_old_driver_is_told_with_both_versions_and_both_ways_out() -> None:
    found = named(cuda_checks(replace(WORKING, driver=(12, 4)), 1))["cuda"]
    assert "12.4" in found.sentence
    assert "13.0" in found.sentence
    assert "CUDA 13" in found.hint
    assert "CUDA 12" in found.hint


@pytest.mark.parametrize(
    ("free", "verdict"), [(80, "ok"), (40, "ok"), (39.9, "warning"), (0.5, "warning"), (0, "warning")]
)
def test_memory_that_somebody_else_holds_is_a_warning_below_one_half(free: float, verdict: str) -> None:
    cuda = replace(WORKING, devices=(replace(DEVICE, free=int(free * GIB)),))
    assert verdicts(cuda)["gpu-memory"] == verdict


def test_one_busy_device_of_two_is_a_warning_with_the_numbers_of_both() -> None:
    found = named(cuda_checks(replace(WORKING, devices=(DEVICE, replace(DEVICE, free=GIB))), 2))["gpu-memory"]
    assert (found.verdict, found.sentence) == ("warning", "only 70.0 GiB of 80.0 GiB; 1.0 GiB of 80.0 GiB are free")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 0), ["sm_80"], True),
        ((8, 6), ["sm_80"], True),  # machine code runs on later minor versions
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),  # and on no other major version
        ((9, 0), ["compute_80"], True),  # intermediate code is compiled for later devices
        ((7, 0), ["compute_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a", "compute_90a"], False),
        ((12, 0), ["sm_120"], True),
        ((10, 3), ["sm_100f"], True),
        ((5, 0), ["sm_75", "sm_80", "sm_90", "sm_100", "compute_120"], False),
        ((9, 0), [], False),
        ((9, 0), ["gfx90a"], False),
    ],
)
def test_code_runs_where_nvidias_rules_say(capability: tuple[int, int], architectures: list[str], runs: object) -> None:
    assert runs_on(capability, architectures) == runs


def test_a_device_that_is_too_old_for_this_torch_is_named_with_its_capability() -> None:
    old = replace(DEVICE, name="Old GPU", capability=(5, 2))
    found = named(cuda_checks(replace(WORKING, devices=(DEVICE, old)), 2))["gpu-architecture"]
    assert found.verdict == "error"
    assert "Old GPU (1) of capability 5.2" in found.sentence
    assert "Big GPU" not in found.sentence


def test_what_this_machine_has_is_asked_of_torch_and_of_the_driver() -> None:
    found = compute.look_at_cuda()
    assert found.torch == str(torch.__version__)
    assert found.build == (torch.version.cuda or "")
    assert len(found.devices) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert (found.driver is None) == (compute.driver_version() is None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_free_memory_of_a_real_device_falls_by_what_is_taken() -> None:
    before = compute.look_at_cuda().devices[0].free
    taken = torch.zeros(2**28, dtype=torch.float32, device="cuda")
    after = compute.look_at_cuda().devices[0].free
    assert before - after >= taken.numel() * 4
    assert named(compute.checks(Path("/"), compute.look_at_cuda()))["gpu-architecture"].verdict == "ok"


# --- processors and memory -------------------------------------------------------------------------------------------


def test_processors_are_those_that_this_process_may_run_on() -> None:
    assert processors(Path("/nowhere")).sentence.startswith(f"{len(os.sched_getaffinity(0))} processor")


@pytest.mark.parametrize(("share", "cores"), [("150000 100000", "1.5"), ("50000 100000", "0.5")])
def test_a_container_s_share_of_processors_counts(tmp_path: Path, share: str, cores: str) -> None:
    found = processors(machine(tmp_path, {"sys/fs/cgroup/cpu.max": f"{share}\n"}))
    assert (found.verdict, found.sentence) == ("warning", f"{cores} processor cores can be used")


@pytest.mark.parametrize("text", ["max 100000\n", "", "?\n"])
def test_a_container_without_a_limit_takes_nothing_away(tmp_path: Path, text: str) -> None:
    assert processors(machine(tmp_path, {"sys/fs/cgroup/cpu.max": text})) == processors(tmp_path / "nowhere")


def meminfo(available_gib: float, total_gib: float = 64) -> str:
    return f"MemTotal: {int(total_gib * 2**20)} kB\nMemFree: 12 kB\nMemAvailable: {int(available_gib * 2**20)} kB\n"


@pytest.mark.parametrize(
    ("available", "verdict"), [(64, "ok"), (8, "ok"), (7.9, "warning"), (2, "warning"), (1.9, "error")]
)
def test_memory_is_judged_by_what_is_available_and_not_by_what_there_is(
    tmp_path: Path, available: float, verdict: str
) -> None:
    found = memory(machine(tmp_path, {"proc/meminfo": meminfo(available)}))
    assert (found.verdict, found.sentence) == (verdict, f"{available:.1f} GiB of 64.0 GiB memory are free")


def test_a_container_s_limit_counts_less_what_it_already_uses(tmp_path: Path) -> None:
    limits = {"sys/fs/cgroup/memory.max": f"{16 * GIB}\n", "sys/fs/cgroup/memory.current": f"{13 * GIB}\n"}
    found = memory(machine(tmp_path, {"proc/meminfo": meminfo(40)} | limits))
    assert (found.verdict, found.sentence) == ("warning", "3.0 GiB of 16.0 GiB memory are free")


def test_a_container_without_a_limit_has_the_machine_s_memory(tmp_path: Path) -> None:
    limits = {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": f"{13 * GIB}\n"}
    assert memory(machine(tmp_path, {"proc/meminfo": meminfo(40)} | limits)).sentence.startswith("40.0 GiB of 64.0")


def test_a_system_that_does_not_tell_its_memory_is_skipped(tmp_path: Path) -> None:
    assert memory(tmp_path).verdict == "skipped"


def test_this_machine_s_memory_agrees_with_the_kernel_s_own_count() -> None:
    found = memory(Path("/"))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.verdict in {"ok", "warning", "error"}
    free, total = (float(word) for word in found.sentence.split() if word[0].isdigit())
    assert 0 < free <= total <= pages / GIB + 0.1


def test_cards_are_counted_where_the_driver_lists_them(tmp_path: Path) -> None:
    root = machine(tmp_path, {f"proc/driver/nvidia/gpus/0000:0{bus}:00.0/information": "" for bus in range(3)})
    assert "3 NVIDIA GPUs" in named(compute.checks(root, NO_CUDA))["gpu"].sentence
