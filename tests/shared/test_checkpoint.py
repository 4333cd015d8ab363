"""Checkpoints: whole or absent, the same bytes for the same content, and never a byte that was not verified."""

from __future__ import annotations

import errno
import hashlib
import importlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from shared import checkpoint
from shared.checkpoint import DTYPES, PARTIAL, load, path_of, save, sweep
from shared.errors import CapacityError, RunError

ROOT = Path(__file__).parents[2]
WEIGHTS = {"layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "layer.bias": np.zeros(2, np.float32)}


def write_under_name_of_its_digest(folder: Path, data: bytes) -> Path:
    path = path_of(folder, hashlib.sha256(data).hexdigest())
    path.write_bytes(data)
    return path


def test_a_checkpoint_is_named_by_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    saved = save(tmp_path, WEIGHTS, {"round": "3"})
    data = saved.path.read_bytes()
    assert saved.digest == hashlib.sha256(data).hexdigest()
    assert saved.path == tmp_path / f"{saved.digest}.safetensors"
    assert saved.size_bytes == len(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        arrays_of.arrays(st.sampled_from(sorted(DTYPES)), arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4)),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=8), st.text(max_size=12), max_size=4),
)
def test_what_was_saved_is_loaded_to_the_bit(
    tmp_path: Path, tensors: dict[str, NDArray[np.generic]], metadata: dict[str, str]
) -> None:
    loaded = load(save(tmp_path, tensors, metadata).path)
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert loaded.tensors[name].shape == tensor.shape
        assert loaded.tensors[name].tobytes() == tensor.tobytes()
    assert loaded.metadata == metadata


def test_the_package_safetensors_reads_the_same_tensors_and_metadata(tmp_path: Path) -> None:
    path = save(tmp_path, WEIGHTS, {"plan": "abc", "round": "3"}).path
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"plan": "abc", "round": "3"}
        assert {name: file.get_tensor(name).tolist() for name in file.keys()} == {  # noqa: SIM118 - not a dict
            name: tensor.tolist() for name, tensor in WEIGHTS.items()
        }


@pytest.mark.parametrize("metadata", [{}, {"plan": 'äöü \n"quoted"'}])
def test_the_bytes_are_those_that_the_package_writes_where_it_is_deterministic(
    tmp_path: Path, metadata: dict[str, str]
) -> None:
    expected = safetensors.numpy.save(WEIGHTS, metadata=metadata or None)
    assert save(tmp_path, WEIGHTS, metadata).path.read_bytes() == expected


def test_the_order_in_which_content_is_given_does_not_change_the_name(tmp_path: Path) -> None:
    metadata = {str(number): "text" for number in range(8)}
    digests = {
        save(tmp_path, dict(tensors), dict(facts)).digest
        for tensors in itertools.permutations(WEIGHTS.items())
        for facts in (metadata.items(), reversed(metadata.items()))
    }
    assert len(digests) == 1


def test_the_name_of_a_content_never_changes(tmp_path: Path) -> None:
    header = b'{"__metadata__":{"a":"1","b":"2"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    padded = header.ljust(-(-len(header) // 8) * 8)
    data = len(padded).to_bytes(8, "little") + padded + b"\x00\x00\x80\x3f"
    saved = save(tmp_path, {"w": np.ones(1, np.float32)}, {"b": "2", "a": "1"})
    assert saved.digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("layout", ["fortran", "strided", "big-endian", "read-only"])
def test_memory_layout_does_not_change_the_name(tmp_path: Path, layout: str) -> None:
    plain = np.arange(12, dtype=np.float32).reshape(3, 4)
    wide = np.zeros((3, 8), np.float32)
    wide[:, ::2] = plain
    frozen = plain.copy()
    frozen.flags.writeable = False
    variants: dict[str, NDArray[Any]] = {
        "fortran": np.asfortranarray(plain),
        "strided": wide[:, ::2],
        "big-endian": plain.astype(">f4"),
        "read-only": frozen,
    }
    assert save(tmp_path, {"w": variants[layout]}, {}).digest == save(tmp_path, {"w": plain}, {}).digest


def test_tensors_lie_at_multiples_of_their_own_size(tmp_path: Path) -> None:
    tensors = {name: np.zeros(3, name) for name in DTYPES}
    data = save(tmp_path, tensors, {}).path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert size % 8 == 0
    assert all(header[name]["data_offsets"][0] % np.dtype(name).itemsize == 0 for name in DTYPES)


def test_content_that_differs_in_anything_has_another_name(tmp_path: Path) -> None:
    one = np.ones(2, np.float32)
    contents: list[tuple[dict[str, NDArray[Any]], dict[str, str]]] = [
        ({"w": one}, {}),
        ({"v": one}, {}),
        ({"w": one.reshape(2, 1)}, {}),
        ({"w": one.view(np.int32)}, {}),
        ({"w": one * -1}, {}),
        ({"w": one}, {"round": "1"}),
        ({"w": one}, {"round": "2"}),
    ]
    assert len({save(tmp_path, tensors, metadata).digest for tensors, metadata in contents}) == len(contents)


def test_saving_the_same_content_again_leaves_one_file(tmp_path: Path) -> None:
    first, again = save(tmp_path, WEIGHTS, {}), save(tmp_path, WEIGHTS, {})
    assert first == again
    assert list(tmp_path.iterdir()) == [first.path]


def test_saving_again_repairs_a_damaged_file(tmp_path: Path) -> None:
    saved = save(tmp_path, WEIGHTS, {})
    saved.path.write_bytes(b"damaged")
    save(tmp_path, WEIGHTS, {})
    load(saved.path)


@pytest.mark.parametrize("position", [0, 8, 20, -1])
def test_one_flipped_bit_anywhere_is_noticed(tmp_path: Path, position: int) -> None:
    path = save(tmp_path, WEIGHTS, {"round": "3"}).path
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match="holds other bytes than its name says") as caught:
        load(path)
    assert caught.value.code == "checkpoint-digest"


def test_a_file_that_was_cut_short_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, WEIGHTS, {}).path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="holds other bytes"):
        load(path)


def test_a_missing_file_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read: No such file") as caught:
        load(path_of(tmp_path, "0" * 64))
    assert caught.value.code == "checkpoint-unreadable"


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.witness,))


def test_a_pickle_under_the_right_name_is_refused_and_does_not_run(tmp_path: Path) -> None:
    pickle = importlib.import_module("pickle")
    witness = tmp_path / "it-ran"
    path = write_under_name_of_its_digest(tmp_path, pickle.dumps(Bomb(witness)))
    with pytest.raises(RunError, match="is no safetensors file"):
        load(path)
    assert not witness.exists()


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 64, (2).to_bytes(8, "little") + b"{]"])
def test_bytes_of_another_format_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RunError, match="is no safetensors file") as caught:
        load(write_under_name_of_its_digest(tmp_path, data))
    assert caught.value.code == "checkpoint-format"


def test_a_tensor_of_objects_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="is object, which a checkpoint cannot hold"):
        save(tmp_path, {"w": np.array([{}], dtype=object)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_is_reported_with_both_numbers_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, where: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*{"fsync": (os, "fsync", refuse), "replace": (Path, "replace", refuse)}[where])
    with pytest.raises(CapacityError) as caught:
        save(tmp_path, WEIGHTS, {})
    needed = len(safetensors.numpy.save(WEIGHTS))
    found = re.fullmatch(r"the disk is full: a checkpoint needs (\d+) bytes, (\d+) are free", caught.value.sentence)
    assert found is not None
    assert int(found[1]) == needed
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_the_disk_is_not_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        save(tmp_path, WEIGHTS, {})
    assert list(tmp_path.iterdir()) == []


_TOO_LARGE = """
import resource, sys
from pathlib import Path
import numpy as np
from shared import checkpoint
from shared.errors import CapacityError
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    checkpoint.save(Path(sys.argv[1]), {"w": np.zeros(2**20, np.float32)}, {})
except CapacityError as error:
    print(error.sentence)
"""


def test_a_write_that_the_system_cuts_short_leaves_no_partial_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TOO_LARGE, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "a checkpoint needs 4194" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_bytes_are_durable_before_the_name_and_the_name_before_save_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watch_fsync(descriptor: int) -> None:
        calls.append("fsync folder" if Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path else "fsync file")
        fsync(descriptor)

    def watch_replace(source: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(Path, "replace", watch_replace)
    save(tmp_path, WEIGHTS, {})
    assert calls == ["fsync file", "rename", "fsync folder"]


_ENDLESS = """
import sys
from pathlib import Path
import numpy as np
from shared import checkpoint
weights = np.zeros(2**18, np.float32)
print("ready", flush=True)
for number in range(10**6):
    weights[:] = number
    checkpoint.save(Path(sys.argv[1]), {"w": weights}, {})
"""


def test_killing_the_writer_leaves_whole_checkpoints_and_what_sweep_removes(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _ENDLESS, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    with writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        while len(list(tmp_path.glob("*.safetensors"))) < 3:
            assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
    partial = [path for path in tmp_path.iterdir() if path.name.startswith(PARTIAL)]
    whole = [path for path in tmp_path.iterdir() if path not in partial]
    assert len(whole) >= 3
    for path in whole:
        load(path)
    assert sweep(tmp_path) == len(partial) <= 1
    assert sorted(tmp_path.iterdir()) == sorted(whole)


def test_sweep_removes_partial_files_only(tmp_path: Path) -> None:
    saved = save(tmp_path, WEIGHTS, {})
    (tmp_path / f"{PARTIAL}abc").write_bytes(b"half")
    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == [saved.path]


def test_no_module_that_can_unpickle_is_imported() -> None:
    assert not {"pickle", "torch"} & vars(checkpoint).keys()
