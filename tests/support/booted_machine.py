"""A machine that boots: this one's root under an overlay, in a container of systemd-nspawn with a network of its own.

The machine's own services do not start in it: their folders are emptied in the overlay. Nothing outside the overlay is
written to, what is brought along is mounted read-only, and at the end no process and no mount is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np

CHECKOUT = Path(__file__).parents[2]
TOOLS = ("systemd-nspawn", "nsenter", "mount", "umount", "ip", "ldconfig")
BROUGHT = Path("/opt/consilium-booted")
PYTHON = BROUGHT / "bin" / "python"
_PATH = f"{PYTHON.parent}:/usr/sbin:/usr/bin:/sbin:/bin"
_EMPTIED = ("etc/systemd/system", "etc/rc2.d", "etc/rc3.d", "etc/rc5.d", "etc/init.d")


def missing() -> str:
    """Why no machine can be booted here; "" where one can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root can boot a container"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"needs {absent[0]}"
    return "" if Path("/usr/lib/systemd/systemd").exists() else "this machine has no systemd to boot"


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"did not happen within {seconds:.0f} s: {what}"
        time.sleep(0.2)


@dataclass
class Machine:
    """One that is booted, or can be again.

    Attributes:
        root: its files, seen from here.
        nspawn: what runs it.
    """

    root: Path
    nspawn: subprocess.Popen[bytes]

    def run(self, *words: str, folder: str = "/") -> subprocess.CompletedProcess[str]:
        """A command in it, as root."""
        inside = [
            "env",
            "-i",
            f"PATH={_PATH}",
            "HOME=/",
            "LANG=C.UTF-8",
            "sh",
            "-c",
            'cd "$0" && exec "$@"',
            folder,
        ]
        entered = ["nsenter", "--target", str(self._first()), "--all", *inside, *words]
        return subprocess.run(entered, capture_output=True, text=True, timeout=180, check=False)

    def said(self, *words: str, folder: str = "/") -> str:
        """What a command prints that ends well."""
        done = self.run(*words, folder=folder)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def property(self, unit: str, name: str) -> str:
        return self.said("systemctl", "show", unit, "--property", name, "--value")

    def journal(self, *units: str) -> str:
        words = [word for unit in units for word in ("--unit", unit)]
        return self.said("journalctl", "--no-pager", "--boot", "--output", "short-precise", *words)

    def reboot(self) -> None:
        """In order, as ``systemctl reboot`` does it."""
        self.run("systemctl", "reboot")
        self.nspawn.wait(90)
        self.nspawn = _booted(self.root)
        self.ready()

    def ready(self) -> None:
        def up() -> bool:
            assert self.nspawn.poll() is None, "the container ended"
            return self._first() > 0 and self.run("systemctl", "is-system-running").stdout.strip() in {
                "running",
                "degraded",
            }

        until(up, 120, "the machine has booted")
        self.said("ldconfig")

    def off(self) -> None:
        if self.nspawn.poll() is None and self._first():
            with suppress(subprocess.TimeoutExpired):
                self.run("systemctl", "poweroff")
                self.nspawn.wait(60)
        for pid in (self._first(), self.nspawn.pid):
            if pid and self.nspawn.poll() is None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.nspawn.wait(30)
        for group in (each for name in ("payload", "supervisor") for each in Path("/sys/fs/cgroup").glob(f"*/{name}")):
            for path in sorted((each for each in group.rglob("*") if each.is_dir()), reverse=True):
                _removed(path)
            _removed(group)

    def _first(self) -> int:
        """Process 1 of the machine, as it is called here; 0 where there is none."""
        with suppress(OSError, ValueError, IndexError):
            children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text()
            return int(children.split()[0])
        return 0


@contextmanager
def machine(folder: Path, prepare: Callable[[Path], None]) -> Iterator[Machine]:
    """A booted machine; ``prepare`` gets its root before.

    Raises:
        OSError: an overlay cannot be mounted here, or another container runs.
    """
    if "systemd-nspawn" in {_name(path) for path in Path("/proc").glob("[0-9]*/comm")}:
        # Both would be in one control group, and the address filters of one hold in the other.
        raise OSError("another container of systemd-nspawn runs")
    root = folder / "root"
    with _overlay(folder, root):
        _make_its_own(root)
        _bring_python(root)
        prepare(root)
        made = Machine(root, _booted(root))
        try:
            made.ready()
            yield made
        finally:
            made.off()


def _removed(group: Path) -> None:
    """An empty control group that the container leaves."""
    with suppress(OSError):
        group.rmdir()


def _name(comm: Path) -> str:
    with suppress(OSError):
        return comm.read_text().strip()
    return ""


@contextmanager
def _overlay(folder: Path, root: Path) -> Iterator[None]:
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    options = f"lowerdir=/,upperdir={folder / 'upper'},workdir={folder / 'work'}"
    words = ["mount", "-t", "overlay", "consilium-test", "-o", options, str(root)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"no overlay of / here: {done.stderr.strip()}")
    try:
        yield
    finally:
        if subprocess.run(["umount", str(root)], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "--lazy", str(root)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def _make_its_own(root: Path) -> None:
    """No service of this machine, no disks of it, and a name by which systemd does not think that it boots first."""
    for name in _EMPTIED:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
    (root / "etc/fstab").write_text("")
    (root / "etc/machine-id").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text(f"{uuid4().hex}\n")


def _bring_python(root: Path) -> None:
    """A virtual environment like this one, where services can see it: ours may lie in a home."""
    home, version = root / BROUGHT.relative_to("/"), f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = home / "lib" / version / "site-packages"
    (home / "bin").mkdir(parents=True)
    packages.mkdir(parents=True)
    (home / "pyvenv.cfg").write_text(f"home = {BROUGHT}/base/bin\ninclude-system-site-packages = false\n")
    (packages / "brought.pth").write_text(f"{BROUGHT}/checkout\n{BROUGHT}/packages\n")
    (root / "etc/ld.so.conf.d").mkdir(exist_ok=True)
    (root / "etc/ld.so.conf.d/brought.conf").write_text(f"{BROUGHT}/base/lib\n")
    for name in ("python", version):
        (home / "bin" / name).symlink_to(f"{BROUGHT}/base/bin/{version}")
    for script in Path(sys.prefix, "bin").glob("*-*"):
        _, _, body = script.read_bytes().partition(b"\n")
        (home / "bin" / script.name).write_bytes(b"#!%s\n%s" % (bytes(PYTHON), body))
        (home / "bin" / script.name).chmod(0o755)


def _booted(root: Path) -> subprocess.Popen[bytes]:
    brought = {"base": Path(sys.base_prefix), "checkout": CHECKOUT, "packages": Path(np.__file__).parents[1]}
    words = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--directory={root}", "--boot"]
    words += ["--console=pipe", "--private-network", "--capability=all", "--system-call-filter=bpf"]
    words += [f"--bind-ro={there}:{BROUGHT}/{name}" for name, there in brought.items()]
    environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
    with (root.parent / "console.log").open("ab") as out:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
        )
