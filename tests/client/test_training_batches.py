"""Batches: patients are dealt fairly, each image changes by the generator alone, prefetching changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import CPU, FIT, make_data, make_plan

from client.training import batches as subject
from client.training.device import memory_format
from shared.seeds import generator


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 99))
def test_every_deck_holds_every_patient_once(patients: int, at_a_time: int, seed: int) -> None:
    hands = subject.deal(patients, at_a_time, generator(seed, "deal"))
    dealt = np.concatenate([next(hands) for _ in range(patients)])
    decks = dealt[: len(dealt) // patients * patients].reshape(-1, patients)
    assert all(sorted(deck) == list(range(patients)) for deck in decks)


def test_a_site_with_one_patient_fills_its_batches_with_that_patient() -> None:
    assert next(subject.deal(1, 4, generator(0, "x"))).tolist() == [0, 0, 0, 0]


def test_a_patient_with_many_images_is_drawn_no_more_often_than_one_with_few() -> None:
    data = subject.TrainingData(make_data(12).cases, ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (10,), (11,)))
    source = subject.batches(data, FIT, make_plan(training__patients_per_step=3), generator(3, "x"))
    pixels = np.stack([case.voxels for case in data.cases]).reshape(12, -1)
    seen = np.zeros(12, int)
    for _ in range(200):
        for image in next(source).images.numpy().reshape(3, -1):
            seen[np.flatnonzero((pixels == image).all(1))[0]] += 1
    assert seen[10] == seen[11] == seen[:10].sum() == 200
    assert (seen[:10] > 5).all()


def test_a_batch_holds_float32_images_channels_first_and_one_target_each() -> None:
    batch = next(subject.batches(make_data(), FIT, make_plan(), generator(0, "x")))
    assert batch.images.shape == (4, 1, 4, 4)
    assert batch.images.dtype == torch.float32
    assert batch.targets.shape == (4,)
    assert len(batch) == 4


def test_batches_from_a_thread_are_the_batches_made_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)

    def make() -> object:
        return subject.batches(make_data(), FIT, make_plan(), generator(0, "x"))

    inline = list(subject.prefetched(make, 6, CPU))
    threaded = list(subject.prefetched(make, 6, torch.device("cuda")))
    assert len(inline) == len(threaded) == 6
    assert all(torch.equal(a.images, b.images) for a, b in zip(inline, threaded, strict=True))


def test_an_error_in_the_thread_is_raised_where_the_batch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)

    def make() -> object:
        raise ValueError("unreadable")
        yield

    with pytest.raises(ValueError, match="unreadable"):
        list(subject.prefetched(make, 3, torch.device("cuda")))


def test_a_consumer_that_stops_early_ends_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    source = subject.prefetched(
        lambda: subject.batches(make_data(), FIT, make_plan(), generator(0, "x")), 50, torch.device("cuda")
    )
    next(source)
    source.close()
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_channels_last_is_for_2d_on_cuda_only() -> None:
    assert memory_format(torch.device("cuda"), 2) == torch.channels_last
    assert memory_format(torch.device("cuda"), 3) == torch.contiguous_format
    assert memory_format(CPU, 2) == torch.contiguous_format
