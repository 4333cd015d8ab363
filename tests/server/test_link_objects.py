"""Messages under way at the gateway: listed in the database, kept in files, gone when nobody refers to them."""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from server.link.objects import PATIENCE_MS, FileObjects

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")
"""Of Alembic, about Flower's own settings for it."""

RUN = 7
PIECE = 5 * 2**20


class Sent:
    """A message with one array, as Flower cuts it."""

    def __init__(self, first: int, count: int = 1_400_000) -> None:
        record = RecordDict({"arrays": ArrayRecord([np.arange(first, first + count, dtype=np.float32)])})
        self.tree = get_object_tree(record)
        self.objects = {name: one.deflate() for name, one in get_all_nested_objects(record).items()}

    @property
    def largest(self) -> str:
        return max(self.objects, key=lambda name: len(self.objects[name]))


def opened(folder: Path) -> FileObjects:
    store = FileObjects(folder / "superlink.sqlite", folder / "objects")
    store.initialize()
    return store


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "objects").iterdir()}


def kept(store: FileObjects, sent: Sent, run: int = RUN) -> None:
    store.preregister(run, sent.tree)
    for name, content in sent.objects.items():
        store.put(name, content)


def test_what_is_put_is_got_to_the_bit(tmp_path: Path) -> None:
    store, sent = opened(tmp_path), Sent(0)
    kept(store, sent)
    assert {name: store.get(name) for name in sent.objects} == sent.objects
    assert files(tmp_path) == set(sent.objects)


def test_a_file_is_named_by_the_digest_of_its_bytes(tmp_path: Path) -> None:
    store, sent = opened(tmp_path), Sent(0)
    kept(store, sent)
    for path in (tmp_path / "objects").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_no_model_is_in_the_database_where_flowers_own_store_puts_it(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    store, sent = opened(tmp_path / "ours"), Sent(0)
    kept(store, sent)
    flowers = SqlObjectStore(str(tmp_path / "flower.sqlite"))
    flowers.initialize()
    kept(flowers, sent)  # type: ignore[arg-type]
    assert _held(tmp_path / "ours" / "superlink.sqlite") == 0
    assert _held(tmp_path / "flower.sqlite") == sum(map(len, sent.objects.values())) > PIECE


def _held(path: Path) -> int:
    with closing(sqlite3.connect(path)) as read:
        (table,) = [
            name
            for (name,) in read.execute("select name from sqlite_master where type = 'table'")
            if {"object_id", "content"} <= {row[1] for row in read.execute(f"pragma table_info({name})")}
        ]
        return int(read.execute(f"select sum(length(content)) from {table}").fetchone()[0])  # noqa: S608 - its own table


def test_an_announced_object_is_empty_until_it_comes_and_an_unknown_one_is_none(tmp_path: Path) -> None:
    store, sent = opened(tmp_path), Sent(0)
    store.preregister(RUN, sent.tree)
    assert store.get(sent.largest) == b""
    assert store.get("0" * 64) is None
    assert not files(tmp_path)


def test_what_was_not_announced_is_not_kept(tmp_path: Path) -> None:
    store, sent = opened(tmp_path), Sent(0)
    with pytest.raises(NoObjectInStoreError):
        store.put(sent.largest, sent.objects[sent.largest])
    assert not files(tmp_path)


def test_bytes_under_another_name_are_refused(tmp_path: Path) -> None:
    store, sent = opened(tmp_path), Sent(0)
    store.preregister(RUN, sent.tree)
    changed = bytearray(sent.objects[sent.largest])
    changed[-1] ^= 1
    with pytest.raises(ValueError, match="does not match"):
        store.put(sent.largest, bytes(changed))
    assert store.get(sent.largest) == b""
    assert not files(tmp_path)


@pytest.mark.parametrize("name", ["../superlink.sqlite", "../../outside", "", ".", "0" * 63, "G" * 64])
def test_a_name_that_is_no_digest_reaches_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(b"stays")
    folder = tmp_path / "link"
    folder.mkdir()
    store, sent = opened(folder), Sent(0)
    kept(store, sent)
    assert store.get(name) is None
    with pytest.raises(ValueError, match="does not match"):
        store.put(name, b"anything")
    store.delete(name)
    assert (tmp_path / "outside").read_bytes() == b"stays"
    assert {path.name for path in folder.iterdir()} >= {"objects", "superlink.sqlite"}
    assert store.get(sent.largest) == sent.objects[sent.largest]


def test_what_is_sent_twice_is_asked_for_once(tmp_path: Path) -> None:
    store, sent = opened(tmp_path), Sent(0)
    assert set(store.preregister(RUN, sent.tree)) == set(sent.objects)
    for name, content in sent.objects.items():
        store.put(name, content)
        store.put(name, content)
    assert store.preregister(RUN, sent.tree) == []


def test_files_go_with_their_message(tmp_path: Path) -> None:
    store, gone, stays = opened(tmp_path), Sent(0), Sent(10_000_000)
    kept(store, gone)
    kept(store, stays)
    store.delete(gone.tree.object_id)
    assert files(tmp_path) == set(stays.objects)
    assert store.get(gone.largest) is None
    assert store.get(stays.largest) == stays.objects[stays.largest]


def test_a_piece_that_another_message_refers_to_stays(tmp_path: Path) -> None:
    array = np.arange(3_000_000, dtype=np.float32)
    records = [RecordDict({name: ArrayRecord([array])}) for name in ("one", "other")]
    store, trees = opened(tmp_path), [get_object_tree(record) for record in records]
    for record, tree in zip(records, trees, strict=True):
        store.preregister(RUN, tree)
        for name, one in get_all_nested_objects(record).items():
            store.put(name, one.deflate())
    store.delete(trees[0].object_id)
    for name, one in get_all_nested_objects(records[1]).items():
        assert store.get(name) == one.deflate()
    store.delete(trees[1].object_id)
    assert not files(tmp_path)


def test_files_go_with_their_run(tmp_path: Path) -> None:
    store, sent, other = opened(tmp_path), Sent(0), Sent(10_000_000)
    kept(store, sent)
    kept(store, other, RUN + 1)
    store.delete_objects_in_run(RUN)
    assert files(tmp_path) == set(other.objects)


def test_nothing_is_left_of_what_is_cleared(tmp_path: Path) -> None:
    store, sent = opened(tmp_path), Sent(0)
    kept(store, sent)
    store.clear()
    assert len(store) == 0
    assert not files(tmp_path)


def test_what_a_caller_undoes_is_still_there(tmp_path: Path) -> None:
    store, sent = opened(tmp_path), Sent(0)
    kept(store, sent)
    with store.session() as session:
        store.delete(sent.tree.object_id)
        session.rollback()
    assert {name: store.get(name) for name in sent.objects} == sent.objects


def test_a_file_that_a_power_cut_took_is_not_there_and_nothing_else_suffers(tmp_path: Path) -> None:
    store, sent, other = opened(tmp_path), Sent(0), Sent(10_000_000)
    kept(store, sent)
    kept(store, other)
    (tmp_path / "objects" / sent.largest).unlink()
    assert store.get(sent.largest) is None
    assert store.get(other.largest) == other.objects[other.largest]
    store.delete(sent.tree.object_id)
    assert files(tmp_path) == set(other.objects)


def test_files_of_no_object_are_removed_at_the_next_start_and_no_other_is(tmp_path: Path) -> None:
    store, sent = opened(tmp_path), Sent(0)
    kept(store, sent)
    (tmp_path / "objects" / ("a" * 64)).write_bytes(b"nobody's")
    (tmp_path / "objects" / f"{'b' * 64}.new").write_bytes(b"half")
    again = opened(tmp_path)
    assert files(tmp_path) == set(sent.objects)
    assert again.get(sent.largest) == sent.objects[sent.largest]


_KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_link_objects import Sent, kept, opened
store, sent = opened(Path(sys.argv[1])), Sent(0)
kept(store, sent)
store.preregister(7, Sent(10_000_000).tree)
print("kept", flush=True)
while True:
    for first in range(20_000_000, 60_000_000, 5_000_000):
        kept(store, Sent(first))
"""


def test_kill_9_takes_nothing_that_was_kept_and_leaves_nothing_half(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _KILLED, str(tmp_path), str(Path(__file__).parent)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"kept\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store, sent = opened(tmp_path), Sent(0)
    assert {name: store.get(name) for name in sent.objects} == sent.objects
    for name in files(tmp_path):
        assert store.get(name) in {b"", (tmp_path / "objects" / name).read_bytes()}
        assert hashlib.sha256((tmp_path / "objects" / name).read_bytes()).hexdigest() == name
    coming = Sent(10_000_000)
    kept(store, coming)
    assert store.get(coming.largest) == coming.objects[coming.largest]


def test_threads_that_put_and_delete_the_same_object_never_lose_one_that_is_complete(tmp_path: Path) -> None:
    store, sent = opened(tmp_path), Sent(0, 2000)
    failures: list[str] = []

    def work() -> None:
        for _ in range(25):
            try:
                kept(store, sent)
            except NoObjectInStoreError:
                continue
            store.delete(sent.tree.object_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        failures += ["hangs"] * thread.is_alive()
    assert not failures
    kept(store, sent)
    assert {name: store.get(name) for name in sent.objects} == sent.objects
    store.delete(sent.tree.object_id)
    assert not files(tmp_path)


def test_its_folder_is_its_owners_alone(tmp_path: Path) -> None:
    opened(tmp_path)
    assert (tmp_path / "objects").stat().st_mode & 0o077 == 0


def test_who_waits_for_the_database_waits_longer_than_flower_would(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from server.link.objects import *; wait_for_the_database()\n"
        "store = FileObjects(Path(sys.argv[1]) / 'a.sqlite', Path(sys.argv[1]) / 'o'); store.initialize()\n"
        "connection = store._engine.raw_connection(); print(connection.execute('pragma busy_timeout').fetchone()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == PATIENCE_MS == 60_000
