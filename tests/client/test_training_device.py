"""Where training runs: never a silent fall-back, never a start that cannot end."""

import contextlib

import pytest
import torch
from tiny_training import CPU, make_model

from client.training import device as subject
from shared.errors import CapacityError


def test_auto_takes_the_cpu_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert subject.choose("auto") == CPU


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert subject.choose("auto").type == "cuda"
    assert subject.choose("cpu") == CPU


def test_asking_for_cuda_where_there_is_none_is_an_error_and_not_a_slow_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CapacityError) as caught:
        subject.choose("cuda")
    assert caught.value.code == "no-cuda"
    assert "nvidia-smi" in caught.value.hint


def test_a_model_that_cannot_fit_is_refused_before_the_first_step_with_both_numbers() -> None:
    big = torch.nn.Linear(2**18, 4)
    with pytest.raises(CapacityError, match=r"at least 20 MiB on cpu, 10 MiB are free"):
        subject.check_capacity(big, CPU, free=10 * 2**20)


def test_a_model_that_fits_is_not_refused() -> None:
    subject.check_capacity(make_model(), CPU)


def test_free_memory_is_what_the_machine_says() -> None:
    assert 2**20 < subject.free_bytes(CPU) < 2**50


def test_on_a_cpu_auto_computes_in_float32() -> None:
    with subject.autocast(CPU, "auto"):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


def test_bfloat16_is_used_when_the_plan_asks_for_it() -> None:
    with subject.autocast(CPU, "bfloat16"):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16


def test_on_cuda_auto_computes_in_bfloat16_where_the_device_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch, "autocast", lambda device, dtype: (device, dtype))
    assert subject.autocast(torch.device("cuda"), "auto") == ("cuda", torch.bfloat16)
    assert isinstance(subject.autocast(torch.device("cuda"), "float32"), contextlib.nullcontext)


def test_releasing_a_cpu_changes_nothing() -> None:
    subject.release(CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_releasing_cuda_gives_cached_memory_back() -> None:
    cuda = torch.device("cuda")
    torch.empty(2**26, device=cuda)
    subject.release(cuda)
    assert torch.cuda.memory_reserved() == 0
