"""A page in sections: rendered once whole, and afterwards section by section as they change.

Promises
- ``/events`` sends a section when its text has changed, and nothing of what has not: server-sent events (WHATWG HTML,
  9.2). The first event after a browser connects compares with what the browser holds, so that nothing is missed.
- What is shown is read once for all who look, at most once a second, in a thread: a slow disk holds nobody up.
- A reader that fails once does not end the stream: the browser keeps what it shows, and is told again.

What is in the sections is their owner's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import jinja2

from shared.local_page.words import small

Sections = Mapping[str, str]
"""HTML of each section by its identifier in the page."""
Shown = TypeVar("Shown")

TICK_S, ALIVE_S = 1.0, 15.0
FOLDER = Path(__file__).parent


@dataclass
class Fresh(Generic[Shown]):
    """What ``read`` gives, read anew when it is older than ``lasts_s``; safe in threads."""

    read: Callable[[], Shown]
    lasts_s: float
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _held: tuple[float, Shown] | None = None

    def __call__(self) -> Shown:
        """The present one."""
        with self._lock:
            if self._held is None or self.clock() - self._held[0] >= self.lasts_s:
                self._held = (self.clock(), self.read())
            return self._held[1]


def environment(folder: Path) -> jinja2.Environment:
    """Templates of ``folder`` and of this one; every word is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["digest"] = digest
    made.filters["small"] = small
    return made


def digest(section: str) -> str:
    """What tells one text of a section from another."""
    return hashlib.sha256(section.encode()).hexdigest()[:16]


async def stream(read: Callable[[], Sections], held: Mapping[str, str], tick_s: float = TICK_S) -> AsyncIterator[bytes]:
    """Events for one browser, which holds sections of the digests ``held``; it ends when the browser hangs up."""
    known, silent_s = dict(held), 0.0
    yield b"retry: 2000\n\n"
    while True:
        changed = await asyncio.to_thread(_changed, read, known)
        if changed:
            known |= {name: digest(text) for name, text in changed.items()}
            yield event(changed)
            silent_s = 0.0
        elif silent_s >= ALIVE_S:
            yield b": alive\n\n"
            silent_s = 0.0
        await asyncio.sleep(tick_s)
        silent_s += tick_s


def event(changed: Sections) -> bytes:
    """One server-sent event; JSON has no line break of its own, so one ``data`` line holds it."""
    said = {name: {"digest": digest(text), "html": text} for name, text in changed.items()}
    return f"event: sections\ndata: {json.dumps(said)}\n\n".encode()


def held_of(said: str) -> dict[str, str]:
    """Digests by section, as a browser says them: ``name:digest,name:digest``."""
    pairs = (part.partition(":") for part in said[:4096].split(","))
    return {name: value for name, _, value in pairs if name and value}


def _changed(read: Callable[[], Sections], known: Mapping[str, str]) -> dict[str, str]:
    try:
        return {name: text for name, text in read().items() if known.get(name) != digest(text)}
    except OSError:
        return {}
