"""What the files of a hospital come to: cases, and what cannot be one.

Promises
- Every file that was looked at has one verdict. Where several cases use a file, or are refused because of it, that is
  the most useful of them.
- No two cases share a name: where two would (tables in two folders that name files alike), both are set aside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from client.data.case_files import CaseFiles, Quarantined
from client.data.source.files import SourceFile
from client.data.source.found import FileSeen, Found, Use
from shared.errors import CaseError
from shared.preprocessing.readable import Readable

_MOST_USEFUL: tuple[Use, ...] = ("table", "image", "mask", "copy", "quarantined", "not-listed", "not-an-image")


@dataclass(frozen=True, slots=True)
class Grouped:
    """A tally that grows while files are judged."""

    _cases: list[CaseFiles] = field(default_factory=list)
    _unusable: list[Quarantined] = field(default_factory=list)
    _verdicts: dict[str, FileSeen] = field(default_factory=dict)

    def look_at(self, seen: str, use: Use, code: str = "") -> None:
        """Begin with a file, under what it is if nothing better is found; only such files are judged later."""
        self._verdicts[seen] = FileSeen(seen, use, code)

    def judge(self, files: Iterable[Readable], use: Use, code: str = "") -> None:
        """Give each of ``files`` a verdict, unless it has a more useful one."""
        for file in files:
            before = self._verdicts.get(file.seen) if isinstance(file, SourceFile) else None
            if before is not None and _MOST_USEFUL.index(use) < _MOST_USEFUL.index(before.use):
                self._verdicts[before.name] = FileSeen(before.name, use, code)

    def add(self, case: CaseFiles) -> None:
        """One case more; its files are judged at the end."""
        self._cases.append(case)

    def set_aside(self, case_id: str, files: Iterable[Readable], error: CaseError) -> None:
        """Quarantine a case with all its files."""
        self._unusable.append(Quarantined(case_id, error.code, error.sentence))
        self.judge(files, "quarantined", error.code)

    def leave_out(self, unusable: Quarantined) -> None:
        """Quarantine a file that cannot be read as anything."""
        self._unusable.append(unusable)
        self.look_at(unusable.case_id, "quarantined", unusable.code)

    def found(self) -> Found:
        """Everything, in an order that depends on names alone."""
        often = Counter(case.case_id for case in self._cases)
        cases = [case for case in self._cases if often[case.case_id] == 1]
        for case in cases:
            self.judge(case.images, "image")
            self.judge([case.mask] if case.mask else [], "mask")
        for case in self._cases:
            if often[case.case_id] > 1:
                clash = CaseError(
                    f"{often[case.case_id]} cases have one name",
                    hint="tables in two folders name files alike: put a folder in front of the names in one of them",
                    code="case-name",
                )
                self.set_aside(case.case_id, case.images, clash)
        return Found(
            tuple(sorted(cases, key=lambda case: case.case_id)),
            tuple(sorted(dict.fromkeys(self._unusable), key=lambda one: (one.case_id, one.code))),
            tuple(sorted(self._verdicts.values(), key=lambda file: file.name)),
        )
