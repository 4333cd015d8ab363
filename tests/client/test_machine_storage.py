"""Room, shared memory, permissions and file systems, on real folders and on tables of mounts as kernels write them."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.machine import storage
from client.machine.examine import examine
from client.machine.storage import disk, file_system, mounted_as, permissions, shared_memory
from client.settings import template
from client.site_folder import SiteFolder

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
25 22 0:22 / /dev/shm rw,nosuid - tmpfs tmpfs rw
31 22 0:40 / /mnt rw shared:2 - nfs4 server:/export rw,vers=4.2
32 31 8:17 / /mnt/local rw - xfs /dev/sdb1 rw
33 22 0:41 / /media/big\\040disk rw - cifs //server/share rw
34 22 0:42 / /covered rw - ext4 /dev/sdc1 rw
35 22 0:43 / /covered rw - nfs server:/x rw
36 22 0:44 / /sshfs rw - fuse.sshfs host: rw
37 22 0:45 / /odd rw - fuse.bindfs x rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return SiteFolder.init(tmp_path / "site", template("north"), datetime(2026, 1, 1, tzinfo=UTC)).path


# --- permissions -----------------------------------------------------------------------------------------------------


def test_a_new_site_folder_is_for_its_owner_alone(site: Path) -> None:
    found = permissions(site)
    assert found.verdict == "ok"
    count = 1 + sum(len(folders) + len(files) for _, folders, files in os.walk(site))
    assert f"all {count} files" in found.sentence


@pytest.mark.parametrize("name", ["keys/pseudonyms.secret", "keys/identity.pem", "site.toml", "keys", "datasets", "."])
@pytest.mark.parametrize("bits", [0o040, 0o004, 0o020, 0o001])
def test_whatever_of_a_site_is_opened_to_others_is_found(site: Path, name: str, bits: int) -> None:
    path = site / name
    path.chmod(path.stat().st_mode | bits)
    found = permissions(site)
    assert found.verdict == "error"
    assert found.sentence.startswith("1 of ")
    path.chmod(path.stat().st_mode & ~bits)
    assert permissions(site).verdict == "ok"


def test_the_hint_mends_what_the_check_found(site: Path) -> None:
    (site / "keys").chmod(0o755)
    (site / "keys/identity.pem").chmod(0o644)
    found = permissions(site)
    assert found.sentence.startswith("2 of ")
    assert os.system(found.hint) == 0  # noqa: S605 - the very command that people are told to type
    assert permissions(site).verdict == "ok"


def test_a_link_is_not_judged_by_its_own_mode_which_means_nothing(site: Path) -> None:
    (site / "archive").symlink_to("/")
    assert permissions(site).verdict == "ok"


def test_files_of_another_user_are_found(site: Path) -> None:
    try:
        os.chown(site / "keys/identity.pem", os.getuid() + 1, -1)
    except PermissionError:
        pytest.skip("only root may give files away")
    assert permissions(site).verdict == "error"
    assert "another user" in permissions(site).sentence


def test_a_folder_that_is_not_there_is_skipped_and_says_how_to_make_it(tmp_path: Path) -> None:
    found = permissions(tmp_path / "none")
    assert (found.verdict, "consilium-site init" in found.sentence) == ("skipped", True)


def test_looking_changes_nothing(site: Path) -> None:
    def state() -> list[tuple[str, int, int]]:
        return [(str(path), path.stat().st_mtime_ns, path.stat().st_mode) for path in sorted(site.rglob("*"))]

    before = state()
    storage.checks(site)
    assert state() == before


# --- room ------------------------------------------------------------------------------------------------------------


def test_room_is_what_the_system_says_also_for_a_folder_that_is_yet_to_be_made(tmp_path: Path) -> None:
    gib = shutil.disk_usage(tmp_path).total / 2**30
    assert f"of {gib:.1f} GiB" in disk(tmp_path).sentence
    assert f"of {gib:.1f} GiB" in disk(tmp_path / "not" / "yet").sentence


@pytest.mark.parametrize(
    ("little", "too_little", "verdict"), [(0, 0, "ok"), (2**70, 0, "warning"), (2**70, 2**70, "error")]
)
def test_little_room_is_a_warning_and_next_to_none_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, little: int, too_little: int, verdict: str
) -> None:
    monkeypatch.setattr(storage, "LITTLE_DISK", little)
    monkeypatch.setattr(storage, "TOO_LITTLE_DISK", too_little)
    assert disk(tmp_path).verdict == verdict


def test_shared_memory_is_measured_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared_memory(tmp_path / "none").verdict == "skipped"
    monkeypatch.setattr(storage, "LITTLE_SHARED", 0)
    assert shared_memory(tmp_path).verdict == "ok"
    monkeypatch.setattr(storage, "LITTLE_SHARED", 2**70)
    found = shared_memory(tmp_path)
    assert (found.verdict, "--shm-size" in found.hint) == ("warning", True)


# --- file systems ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/srv/site", "ext4"),
        ("/mnt", "nfs4"),
        ("/mnt/site", "nfs4"),
        ("/mnt/local/site", "xfs"),
        ("/mnt/localities", "nfs4"),
        ("/media/big disk/site", "cifs"),
        ("/covered/site", "nfs"),
    ],
)
def test_a_folder_is_on_the_innermost_and_latest_mount_above_it(mounts: Path, folder: str, kind: str) -> None:
    assert mounted_as(Path(folder), mounts) == kind


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("ext4", "ok"),
        ("xfs", "ok"),
        ("btrfs", "ok"),
        ("zfs", "ok"),
        ("overlay", "ok"),
        ("nfs", "error"),
        ("nfs4", "error"),
        ("cifs", "error"),
        ("9p", "error"),
        ("lustre", "error"),
        ("fuse.sshfs", "error"),
        ("fuse.bindfs", "warning"),
        ("fuseblk", "warning"),
        ("virtiofs", "warning"),
    ],
)
def test_network_file_systems_are_errors_and_doubtful_ones_warnings(tmp_path: Path, line: str, verdict: str) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"22 1 8:1 / / rw - {line} somewhere rw\n")
    found = file_system(tmp_path, table)
    assert found.verdict == verdict
    assert line in found.sentence
    assert bool(found.hint) == (verdict != "ok")


def test_images_on_another_mount_than_the_site_are_judged_too(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "site").mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(f"22 1 8:1 / / rw - ext4 x rw\n31 22 0:40 / {tmp_path / 'far'} rw - nfs4 x rw\n")
    assert file_system(tmp_path / "site", table).verdict == "ok"
    (tmp_path / "site/datasets").symlink_to(tmp_path / "far")
    assert file_system(tmp_path / "site", table).verdict == "error"


def test_a_system_without_a_table_of_mounts_is_skipped(tmp_path: Path) -> None:
    assert file_system(tmp_path, tmp_path / "none").verdict == "skipped"


def test_the_real_table_of_this_machine_gives_the_kind_that_stat_gives(tmp_path: Path) -> None:
    real = Path("/proc/self/mountinfo")
    if not real.exists():
        pytest.skip("this system has no mountinfo")
    devices = {
        line.split()[2]: line.partition(" - ")[2].split()[0] for line in real.read_text().splitlines() if " - " in line
    }
    device = tmp_path.stat().st_dev
    expected = devices.get(f"{os.major(device)}:{os.minor(device)}")
    if expected is None:
        pytest.skip("the device of this folder is not in the table (btrfs)")
    assert mounted_as(tmp_path, real) == expected


# --- all together ----------------------------------------------------------------------------------------------------


def test_a_machine_is_examined_whole_each_time_under_the_same_names(site: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    here, nowhere = (examine(folder, None, None, {}, now) for folder in (site, tmp_path / "none"))
    names = [check.name for check in here]
    assert names == [check.name for check in nowhere]
    assert len(names) == len(set(names)) == 17
    assert all(check.sentence and "\n" not in check.sentence for check in (*here, *nowhere))
    assert {check.verdict for check in here if check.name in {"name", "tls", "clock"}} == {"skipped"}
