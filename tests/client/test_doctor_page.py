"""The doctor's page: everything in one file that stays at the site, readable by its owner and by everyone who reads."""

import base64
import io
import re
import shutil
import stat
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture
from tiny_archive import Made, made, name_of, tiny_archive

from client.data.archive.archive import Archive
from client.data.case_files import Quarantined
from client.data.doctor import page, plots, thumbnails
from client.data.doctor.cases import VENDOR
from client.data.doctor.findings import Diagnosis, Finding, Histogram
from client.data.doctor.page import render, write_page
from client.data.doctor.survey import SAMPLED, binned, survey

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "br", "img", "hr", "input", "link", "wbr", "rect", "line"}


class Reader(HTMLParser):
    """Collects elements and text, and insists that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for found, attributes in self.elements if found == tag]


def volume(number: int) -> Made:
    """A bright ball in the fourth of five slices, outlined by its mask."""
    grid = np.indices((5, 40, 20))
    ball = ((grid[1] - 20) ** 2 + (grid[2] - 10) ** 2 < 36) & (grid[0] == 3)
    voxels = np.where(ball, 900.0, 100.0).astype(np.float32)[None]
    more = {"spacing_mm": (3.0, 1.0, 2.0), "acquisition": ((VENDOR, "Beta"),)}
    return Made(f"case {number}", f"person {number}", voxels, ball.astype(np.uint8), "malignant", "mr", more)


def photograph(number: int) -> Made:
    return Made(f"case {number}", f"person {number}", np.full((3, 8, 8), (200.0,), np.float32), None, None, "fundus")


CASES = [
    *(made(number, more={"acquisition": ((VENDOR, "Alpha"),)}) for number in range(20)),
    volume(20),
    photograph(21),
]
NAMES = tuple(sorted(case.case_id for case in CASES))
QUARANTINED = (
    Quarantined(name_of("q1"), "file-unreadable", "a file of this case cannot be read: input/output error"),
    Quarantined(name_of("q2"), "slice-gap", "slices 3 and 4 of 9 lie 9.0 mm apart"),
)


def diagnosis() -> Diagnosis:
    return Diagnosis(
        dataset="breast",
        patients=22,
        cases=22,
        quarantined={"file-unreadable": 1, "slice-gap": 1},
        files={"image": 24, "not-an-image": 3, "table": 1},
        tables={
            "label": {"benign": 10, "malignant": 11, "unknown": 1},
            "vendor": {"Alpha": 20, "Beta": 1, "unknown": 1},
        },
        findings=(
            Finding("duplicate", "error", NAMES[:2], "2 images are alike", "keep one of them"),
            Finding("duplicate", "error", NAMES[2:4], "2 images of 2 patients are alike", "keep one of them"),
            Finding("label-missing", "warning", (CASES[21].case_id,), "1 image has no label"),
            Finding("tables", "warning", (), "the table has 3 rows that no image is for"),
            Finding("header", "note", NAMES, "22 headers held something"),
        ),
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return tiny_archive(tmp_path_factory.mktemp("page") / "archive", CASES, QUARANTINED)


@pytest.fixture(scope="module")
def text(archive: Archive) -> str:
    return render(diagnosis(), archive)


def picture_of(address: str) -> NDArray[np.uint8]:
    assert address.startswith("data:image/png;base64,")
    return np.asarray(Picture.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


# --- it stays at the site --------------------------------------------------------------------------------------------


def test_the_page_says_first_of_all_that_it_is_not_to_be_sent(text: str) -> None:
    body = Reader(text).words.partition("do not send")[2]
    assert body.startswith(" Contains pictures of patients; do not send. This report stays at the site.")


def test_the_file_is_for_its_owner_alone_also_where_an_open_one_was(archive: Archive, tmp_path: Path) -> None:
    path = tmp_path / "doctor.html"
    for left_over in (path, tmp_path / "doctor.html.pending"):
        left_over.write_text("old")
        left_over.chmod(0o644)
    write_page(diagnosis(), archive, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text(encoding="utf-8") == render(diagnosis(), archive)
    assert [left.name for left in tmp_path.iterdir()] == ["doctor.html"]


def test_the_page_needs_nothing_from_anywhere_else_and_forbids_it(text: str) -> None:
    found = Reader(text)
    assert set(re.findall(r"https?://[^\s\"'<)]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert not {"script", "link", "iframe", "object", "form", "a"} & {tag for tag, _ in found.elements}
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in found.all("img"))
    (policy,) = (one["content"] for one in found.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "@import" not in text
    assert "url(" not in text


def test_the_same_archive_gives_the_same_bytes(archive: Archive, text: str) -> None:
    assert render(diagnosis(), archive) == text


def test_words_of_a_table_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    more = {"acquisition": ((VENDOR, f"{evil}2"),)}
    case = made(1, label=evil, more=more)
    found = Finding("x", "error", (case.case_id,), f"a {evil}", evil)
    said = Diagnosis(
        evil, 1, 1, {evil: 1}, {evil: 1}, {evil: {evil: 1}}, (found,), {evil: Histogram(evil, (0.0, 1.0), (1,))}
    )
    with tiny_archive(tmp_path / "archive", [case, made(2)], [Quarantined(name_of("q"), evil, evil)]) as archive:
        rendered = render(said, archive)
    assert "script" not in {tag for tag, _ in Reader(rendered).elements}
    assert rendered.count("&lt;script&gt;") > 8


# --- findings --------------------------------------------------------------------------------------------------------


def test_findings_come_in_the_order_of_the_diagnosis_those_of_one_code_together(archive: Archive) -> None:
    found = page.kinds(diagnosis(), archive)
    assert [kind.code for kind in found] == ["duplicate", "label-missing", "tables", "header"]
    assert found[0].sentences == ("2 images are alike", "2 images of 2 patients are alike")
    assert found[0].hints == ("keep one of them",)
    assert (found[0].count, found[0].cases) == (4, NAMES[:4])


def test_every_error_and_warning_about_cases_says_what_to_type(archive: Archive) -> None:
    commands = {kind.code: kind.command for kind in page.kinds(diagnosis(), archive)}
    assert commands == {
        "duplicate": "consilium-site freeze --dataset breast --exclude duplicate",
        "label-missing": "consilium-site freeze --dataset breast --exclude label-missing",
        "tables": "",
        "header": "",
    }


def test_examples_are_few_and_what_is_left_out_is_counted(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "NAMED", 5)
    many = tuple(Finding("x", "warning", NAMES, f"sentence {number}") for number in range(page.SENTENCES + 7))
    (kind,) = page.kinds(replace(diagnosis(), findings=many), archive)
    assert (len(kind.examples), len(kind.cases), kind.count) == (page.EXAMPLES, 5, 22)
    words = Reader(render(replace(diagnosis(), findings=many), archive)).words
    assert "and 7 more" in words
    assert "The first 5 names of 22" in words
    assert "Sentence 7" in words
    assert "Sentence 8" not in words


def test_copies_stand_side_by_side_and_are_said_to_belong_together(archive: Archive) -> None:
    first, second, third, fourth = (one.case_id for one in list(archive.records())[:4])
    sets = ((first, fourth), (second, third))
    finding = Finding(
        "duplicate-across-patients", "error", tuple(sorted([first, second, third, fourth])), "x", "", sets
    )
    (kind,) = page.kinds(replace(diagnosis(), findings=(finding,)), archive)
    assert [one.case_id for one in kind.examples] == [first, fourth, second, third]
    assert [one.caption.partition(":")[0] for one in kind.examples] == ["set 1", "set 1", "set 2", "set 2"]
    shown = render(replace(diagnosis(), findings=(finding,)), archive)
    assert f"<li>{first} = {fourth}</li><li>{second} = {third}</li>" in shown


def test_every_picture_has_words_for_those_who_do_not_see_it(text: str) -> None:
    pictures = Reader(text).all("img")
    assert len(pictures) == 4 + 1 + page.EXAMPLES
    assert all(re.fullmatch(r"Case [0-9a-f]{24}: .+, label .+", one["alt"]) for one in pictures)
    drawings = Reader(text).all("svg")
    assert drawings
    assert all(one["role"] == "img" and one["aria-label"] for one in drawings)


def test_a_case_that_is_gone_and_one_that_is_damaged_are_said_and_not_shown(tmp_path: Path) -> None:
    with tiny_archive(tmp_path / "archive", [made(1), made(2)]) as archive:
        (segment,) = (path for path in (tmp_path / "archive/segments").iterdir() if path.stat().st_size)
        content = segment.read_bytes()
        segment.chmod(0o600)
        segment.write_bytes(bytes(len(content)))
        said = replace(
            diagnosis(), findings=(Finding("x", "error", (made(1).case_id, name_of("gone")), "2 cases are odd"),)
        )
        (kind,) = page.kinds(said, archive)
        words = Reader(render(said, archive)).words
    assert [(one.address, one.caption) for one in kind.examples] == [
        ("", "cannot be shown: archive-damaged"),
        ("", "no longer in the archive"),
    ]
    assert "cannot be shown: archive-damaged" in words


@pytest.mark.parametrize(
    ("severities", "said"),
    [
        ([], "Nothing stands against freezing this data set."),
        (["note"], "Nothing stands against freezing this data set."),
        (["warning"], "Nothing stands against freezing; 1 thing worth a look."),
        (["error"], "1 thing to settle before this data set is frozen."),
        (["error", "error", "warning"], "2 things to settle before this data set is frozen, 1 more worth a look."),
    ],
)
def test_the_first_sentence_says_whether_the_data_set_can_be_frozen(severities: list[str], said: str) -> None:
    findings = tuple(Finding(f"x-{number}", one, (), "") for number, one in enumerate(severities))  # type: ignore[arg-type]
    assert page.lead(replace(diagnosis(), findings=findings)) == f"22 images of 22 patients. {said}"


# --- counts ----------------------------------------------------------------------------------------------------------


def test_all_counts_of_the_diagnosis_stand_on_the_page(text: str) -> None:
    words = Reader(text).words
    for said in (
        "Images 22", "Patients 22", "Set aside 2", "Files 28",
        "malignant 11 benign 10 unknown 1",
        "Alpha 20 Beta 1 unknown 1",
        "file-unreadable 1 a file of this case cannot be read: input/output error",
        "slice-gap 1 slices 3 and 4 of 9 lie 9.0 mm apart",
        "part of a case 24 no image 3 table 1",
    ):  # fmt: skip
        assert said in words


def test_classes_by_vendor_are_patients_counted_once(tmp_path: Path) -> None:
    def scanned(number: int, person: int, label: str, vendor: str) -> Made:
        return made(number, person, label=label, more={"acquisition": ((VENDOR, vendor),)})

    cases = [scanned(1, 1, "a", "X"), scanned(2, 1, "a", "X"), scanned(3, 2, "a", "Y"), scanned(4, 3, "b", "X")]
    with tiny_archive(tmp_path / "archive", [*cases, made(5, 4, label=None)]) as archive:
        assert survey(archive).classes == {"a": {"X": 1, "Y": 1}, "b": {"X": 1}, "unknown": {"unknown": 1}}


def test_an_empty_data_set_has_a_page_too(tmp_path: Path) -> None:
    nothing = Diagnosis("none", 0, 0, {}, {}, {"label": {}}, ())
    with tiny_archive(tmp_path / "archive", []) as archive:
        words = Reader(render(nothing, archive)).words
    assert "0 images of 0 patients." in words
    assert "Nothing was found." in words
    assert "No case is in quarantine." in words


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_picture_has_the_proportions_of_the_patient_and_not_of_the_grid(archive: Archive) -> None:
    record = archive.record(CASES[20].case_id)
    assert record is not None
    shown = picture_of(thumbnails.data_uri(archive, record))
    assert shown.shape[:2] == (thumbnails.EDGE, thumbnails.EDGE)  # 40 rows of 1 mm, 20 columns of 2 mm


def test_of_a_volume_the_slice_with_most_of_the_mask_is_shown_and_outlined(archive: Archive) -> None:
    record = archive.record(CASES[20].case_id)
    assert record is not None
    plane, mask = thumbnails.central_plane(archive, record)
    assert mask is not None
    assert (plane[0] == CASES[20].voxels[0, 3]).all()
    shown = picture_of(thumbnails.data_uri(archive, record)).astype(int)
    amber = (shown == (255, 176, 0)).all(axis=-1)
    assert amber.any()
    inside, outside = shown[80, 80], shown[5, 5]
    assert (inside > outside).all()
    rows, columns = np.nonzero(amber)
    # The ball's radius is 6 rows of 1 mm at 4 pixels a mm; in mm it is 12 wide from side to side, by 2 mm columns.
    assert abs(rows.min() - (80 - 24)) <= 6
    assert abs(columns.max() - (80 + 48)) <= 10


def test_of_a_volume_without_a_mask_the_middle_slice_is_shown(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(7, dtype=np.float32)[None, :, None, None], (1, 7, 4, 4)).copy()
    with tiny_archive(tmp_path / "archive", [made(1, voxels=ramp, modality="ct")]) as archive:
        (record,) = archive.records()
        plane, mask = thumbnails.central_plane(archive, record)
    assert mask is None
    assert (plane == 3).all()


def test_colours_are_shown_as_they_are(archive: Archive) -> None:
    record = archive.record(CASES[21].case_id)
    assert record is not None
    assert (picture_of(thumbnails.data_uri(archive, record)) == 200).all()


@pytest.mark.parametrize("value", [-1000.0, 0.0, 7.5])
def test_a_constant_image_has_a_picture(value: float) -> None:
    shown = thumbnails.picture(np.full((1, 9, 9), value, np.float32), None, (1.0, 1.0))
    assert np.unique(np.asarray(shown)).size == 1


def test_a_few_extreme_values_do_not_darken_the_rest() -> None:
    plane = np.tile(np.linspace(0, 100, 100, dtype=np.float32), (1, 100, 1))
    plane[0, 0, 0] = 1e6
    assert np.asarray(thumbnails.picture(plane, None, (1.0, 1.0))).mean() > 100


def test_an_image_that_is_one_pixel_wide_has_a_picture() -> None:
    assert thumbnails.picture(np.zeros((1, 500, 1), np.float32), None, (1.0, 0.01)).size == (1, thumbnails.EDGE)


# --- drawings --------------------------------------------------------------------------------------------------------


def test_heights_are_in_proportion_to_counts() -> None:
    drawn = plots.histogram("x", Histogram("mm", (0.0, 1.0, 2.0, 3.0), (10, 0, 5)))
    heights = [float(height) for height in re.findall(r'class="bar"[^>]* height="([\d.]+)"', drawn)]
    assert len(heights) == 2
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    drawn = plots.histogram("x", Histogram("mm", (0.0, 1.0, 2.0), (100, 25)), "square-root")
    heights = [float(height) for height in re.findall(r'class="bar"[^>]* height="([\d.]+)"', drawn)]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)


def test_what_a_drawing_shows_is_said_in_words() -> None:
    shown = Histogram("mm", (0.5, 1.0, 1.5, 2.0), (0, 7, 2))
    assert plots.in_words(shown) == "9 in all, from 1 to 2 mm; most, 7, from 1 to 1.5"
    assert plots.in_words(Histogram("mm", (0.0, 1.0), (0,))) == "nothing was counted"
    assert 'aria-label="Pixel spacing: 9 in all' in plots.histogram("Pixel spacing", shown)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 50, 100]),
        (0, 255, [0, 100, 200]),
        (-1000, 1000, [-1000, -500, 0, 500, 1000]),
        (0.31, 0.42, [0.35, 0.4]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert plots.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_there_are_always_some_ticks_and_never_many(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.normal() * 10.0 ** rng.integers(-3, 5)
    high = low + abs(rng.normal()) * 10.0 ** rng.integers(-3, 5)
    found = plots.ticks(low, high)
    assert 1 <= len(found) <= 5
    assert all(low - 1e-6 * (high - low) <= tick <= high + 1e-6 * (high - low) for tick in found)


@pytest.mark.parametrize("values", [[1.0], [3.0] * 9, [0.0], [-5.0, -5.0], [1, 2, 2, 9], list(range(500)), [0.1, 0.7]])
def test_every_value_falls_into_one_bin(values: list[float]) -> None:
    shown = binned(values, "mm")
    assert sum(shown.counts) == len(values)
    assert len(shown.edges) == len(shown.counts) + 1
    assert list(shown.edges) == sorted(set(shown.edges))


def test_grey_values_are_of_a_bounded_number_of_images(tmp_path: Path) -> None:
    with tiny_archive(tmp_path / "archive", [made(number) for number in range(SAMPLED + 9)]) as archive:
        shown, images = survey(archive).intensities["us"]
    assert images == SAMPLED
    assert sum(shown.counts) == SAMPLED * 12 * 10


def test_what_the_doctor_measured_is_drawn_in_place_of_the_survey_s_geometry(archive: Archive) -> None:
    measured = replace(diagnosis(), histograms={"Mean value": Histogram("grey value", (0.0, 1.0, 2.0), (3, 19))})
    titles = [drawing.title for drawing in page.drawings(measured, survey(archive))]
    assert titles == ["Grey values, FUNDUS", "Grey values, MR", "Grey values, US", "Mean value"]
    titles = [drawing.title for drawing in page.drawings(diagnosis(), survey(archive))]
    assert titles[3:] == ["Longer side of a plane", "Pixel spacing", "Slice spacing", "Slices"]


# --- for every reader ------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    digits = colour.lstrip("#") if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_all_text_has_the_contrast_of_wcag_in_light_in_dark_and_in_print() -> None:
    style = (Path(page.__file__).parent / "page.css").read_text(encoding="utf-8")
    palettes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(palettes) == 3
    for palette in palettes:
        pairs = [("ink", "paper"), ("muted", "paper"), ("alert", "paper"), ("caution", "paper"), ("accent", "paper"),
                 ("alert", "alert-wash"), ("ink", "alert-wash"), ("ink", "wash"), ("muted", "wash")]  # fmt: skip
        assert [pair for pair in pairs if contrast(palette[pair[0]], palette[pair[1]]) < 4.5] == []


def test_headings_come_in_order_and_everything_that_is_named_exists(text: str) -> None:
    found = Reader(text)
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    names = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert {
        attributes["aria-labelledby"] for _, attributes in found.elements if "aria-labelledby" in attributes
    } <= set(names)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium to lay the page out")
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_screen(archive: Archive, tmp_path: Path, width: int) -> None:
    path = tmp_path / "doctor.html"
    write_page(diagnosis(), archive, path)
    # The page's own policy forbids scripts; the copy that is measured goes without it.
    measured = re.sub(r"<meta http-equiv.*?>", "", path.read_text(encoding="utf-8"))
    script = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script>"
    path.write_text(measured.replace("</body>", f"{script}</body>"), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="doctor.html" style="width:{width}px;height:900px;border:0"></iframe>')
    frame.write_text(
        frame.read_text() + "<script>onload = () => document.title = frames[0].document.title</script>",
        encoding="utf-8",
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    dumped = subprocess.run(
        [str(CHROMIUM), *options, f"--user-data-dir={tmp_path / 'profile'}", frame.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    wide = re.search(r"<title>(\d+) of (\d+)</title>", dumped)
    assert wide is not None
    assert int(wide[1]) <= int(wide[2])
    assert int(wide[2]) == width
