"""The PDF: the page's numbers on paper, vectors, bookmarks, the same bytes, no date; read back by another library."""

import io
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from classified_runs import CLASSIFIED, FAULTS, classified
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, PathPatch
from matplotlib.path import Path as Outline
from pypdf import PdfReader
from report_runs import PLAN_TEXT, SITES, SUMS_ONLY, overlap, phantoms, results, sums_only_results, write_run
from reportlab.pdfgen.canvas import Canvas

from server.cli import app
from server.report import paper_table, svg
from server.report.document import PDF, document, write_pdf
from server.report.page import context
from server.report.paper import WIDTH_PT
from server.report.paper_figure import paint_on
from server.report.run import Run, read_run
from server.report.tables import Cell, Table
from server.results import RESULTS
from shared.errors import RunError
from shared.plan import parse

RUNS = {
    "segmentation": Run(parse(PLAN_TEXT), PLAN_TEXT, results(), ()),
    "classification": Run(parse(CLASSIFIED), CLASSIFIED, classified(*FAULTS), ()),
    "sums": Run(parse(SUMS_ONLY), SUMS_ONLY, sums_only_results(), ()),
}


@pytest.fixture(scope="module")
def papers() -> dict[str, bytes]:
    return {name: document(run, phantoms() if name == "segmentation" else ()) for name, run in RUNS.items()}


def read(made: bytes) -> PdfReader:
    return PdfReader(io.BytesIO(made), strict=True)


def text_of(made: bytes) -> str:
    """Words of all sheets, with single spaces."""
    return re.sub(r"\s+", " ", " ".join(page.extract_text() for page in read(made).pages))


def bookmarks(made: bytes) -> list[str]:
    def flat(items: list[object]) -> list[str]:
        found = []
        for item in items:
            found += flat(item) if isinstance(item, list) else [str(item.title)]  # type: ignore[attr-defined]
        return found

    return flat(read(made).outline)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(RUNS))
def test_every_number_of_every_table_stands_on_paper(papers: dict[str, bytes], kind: str) -> None:
    shown, said = context(RUNS[kind]), text_of(papers[kind])
    named = [shown["participation"], shown["data"], shown["cross_site"], shown["operating_point"], shown["rest_table"]]
    tables = [*shown["result_tables"], *(table for table, _ in shown["subgroups"]), *(one for one in named if one)]
    cells = [cell for table in tables for _, row in table.rows for cell in row]
    assert len(cells) > 10
    missing = {text for cell in cells for text in (cell.text, cell.detail) if text and text not in said}
    assert missing == set()


@pytest.mark.parametrize("kind", list(RUNS))
def test_every_sentence_of_the_page_stands_on_paper(papers: dict[str, bytes], kind: str) -> None:
    shown, said = context(RUNS[kind]), re.sub(r"\s", "", text_of(papers[kind]))
    figures = [*shown["result_figures"], *shown["curves"], *shown["training_figures"]]
    sentences = [shown["title"], shown["lead"], shown["summary"], *shown["privacy"], *(one.caption for one in figures)]
    sentences += [text for look in shown["looks"] for text in (look.title, look.sentence, look.todo)]
    sentences += [text for pair in (*shown["method"], *shown["provenance"], *shown["readings"]) for text in pair]
    assert [text for text in sentences if re.sub(r"\s", "", text) not in said] == []


@pytest.mark.parametrize("kind", list(RUNS))
def test_every_section_of_the_page_is_a_bookmark_in_its_order(papers: dict[str, bytes], kind: str) -> None:
    names = [name for _, name in context(RUNS[kind], phantoms() if kind == "segmentation" else ())["sections"]]
    found = bookmarks(papers[kind])
    assert [title for title in found if title in names] == names
    assert found[0] == context(RUNS[kind])["title"]
    assert any(title.startswith("Appendix") for title in found)


def test_figures_and_tables_are_bookmarks_too(papers: dict[str, bytes]) -> None:
    assert {"ROC curve", "AUROC by sex: gaps", "By sex", "All sites together"} <= set(
        bookmarks(papers["classification"])
    )


@pytest.mark.parametrize("kind", list(RUNS))
def test_every_sheet_has_its_number_and_the_runs_name(papers: dict[str, bytes], kind: str) -> None:
    pages = read(papers[kind]).pages
    assert len(pages) >= 3
    for number, page in enumerate(pages, start=1):
        said = page.extract_text()
        assert f"{number} of {len(pages)}" in said
        assert f"run {RUNS[kind].results.run}" in said


def test_the_same_run_gives_the_same_bytes_a_second_later(papers: dict[str, bytes]) -> None:
    time.sleep(1.1)
    assert document(RUNS["classification"]) == papers["classification"]


def test_another_number_gives_other_bytes(papers: dict[str, bytes]) -> None:
    assert document(replace(RUNS["sums"], results=replace(RUNS["sums"].results, seed=8))) != papers["sums"]


@pytest.mark.parametrize("kind", list(RUNS))
def test_the_file_has_a_title_and_a_language_and_no_date(papers: dict[str, bytes], kind: str) -> None:
    reader = read(papers[kind])
    assert reader.metadata is not None
    assert reader.metadata.title == f"{context(RUNS[kind])['title']} · Consilium report"
    assert reader.metadata.creation_date is None
    assert reader.trailer["/Root"]["/Lang"] == "en"  # type: ignore[index]
    assert b"Date" not in papers[kind]
    assert b"ReportLab" not in papers[kind].split(b"/Producer")[1][:40]


@pytest.mark.parametrize("kind", list(RUNS))
def test_every_font_is_inside_the_file(papers: dict[str, bytes], kind: str) -> None:
    fonts = {}
    for page in read(papers[kind]).pages:
        for font in page["/Resources"]["/Font"].values():  # type: ignore[index]
            found = font.get_object()
            fonts[found["/BaseFont"]] = found
    ours = {name: font for name, font in fonts.items() if "DejaVu" in name or "STIX" in name}
    assert len(ours) >= 3
    assert all("/FontFile2" in font["/FontDescriptor"] for font in ours.values())


@pytest.mark.parametrize(("kind", "pictures"), [("segmentation", 2), ("classification", 0), ("sums", 0)])
def test_figures_are_vectors_and_only_phantoms_are_pictures(papers: dict[str, bytes], kind: str, pictures: int) -> None:
    assert sum(len(page.images) for page in read(papers[kind]).pages) == pictures
    assert "sensitivity" in text_of(papers["classification"]), "words of figures can be searched"


def test_a_run_of_a_hundred_sites_goes_on_over_sheets_under_the_same_headings() -> None:
    sites = {f"site-{place:03}": overlap(0.6 + place / 1000, 0.05, 8) for place in range(100)}
    made = document(
        replace(RUNS["segmentation"], results=replace(results(), final={**results().final, "sites": sites}))
    )
    said = text_of(made)
    assert all(site in said for site in sites)
    going_on = [text for page in read(made).pages if (text := page.extract_text()).startswith("Site\n")]
    assert len(going_on) >= 2
    assert all("Dice" in text and text.count("site-") > 10 for text in going_on)


@pytest.mark.parametrize("hostile", ["<b>x</b> & <font", "<script>alert(1)</script>", "{{ 7 * 7 }}", "a\\b(c)"])
def test_a_hostile_name_is_words_on_paper(hostile: str) -> None:
    final = {**results().final, "sites": {hostile: overlap(0.7, 0.05, 8)}}
    made = document(replace(RUNS["segmentation"], results=replace(results(), final=final, versions={hostile: hostile})))
    assert re.sub(r"\s", "", hostile) in re.sub(r"\s", "", text_of(made))


def test_the_file_lies_beside_the_page_and_reads_the_same_three_files(tmp_path: Path) -> None:
    folder = write_run(tmp_path, sums_only_results(), SUMS_ONLY, ())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == {"plan.toml", RESULTS, "rounds.jsonl"}
    assert write_pdf(folder) == folder / PDF
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != PDF} == before
    assert (folder / PDF).read_bytes() == document(read_run(folder))
    assert str(tmp_path).encode() not in (folder / PDF).read_bytes()


def test_no_pdf_is_written_for_results_of_another_plan(tmp_path: Path) -> None:
    folder = write_run(tmp_path, results(), SUMS_ONLY, SITES)
    with pytest.raises(RunError, match="belong to plan"):
        write_pdf(folder)
    assert not (folder / PDF).exists()


# --- tables


def wide(columns: int, rows: int = 3) -> Table:
    cells = tuple(Cell(f"0.{place:03}", f"0.{place:03}0 to 0.{place:03}9", 0.1) for place in range(columns))
    heads = tuple(f"Measure {place}" for place in range(columns))
    return Table("Wide", ("Site", *heads), tuple((f"site {row}", cells) for row in range(rows)))


@pytest.mark.parametrize("columns", [1, 4, 9, 30])
def test_a_wide_table_is_cut_into_parts_that_fit_and_hold_every_column_once(columns: int) -> None:
    table = wide(columns)
    parts, widths = paper_table.blocks(table), paper_table.natural_widths(table)
    assert [column for part in parts for column in part] == list(range(1, columns + 1))
    assert all(widths[0] + sum(widths[column] for column in part) <= WIDTH_PT for part in parts)
    assert (len(parts) > 1) == (columns > 6)


def test_a_table_without_rows_is_its_headings() -> None:
    assert len(paper_table.parts_of(Table("Empty", ("Site", "Dice"), ()))) == 1


# --- drawings


def commands(paint: object) -> str:
    """What a drawing leaves on a sheet, as PDF commands."""
    file = io.BytesIO()
    canvas = Canvas(file, invariant=1, pageCompression=0)
    drawing = svg.Drawing("d", "a drawing", svg.Frame(height=200, left=0, right=0, top=0, bottom=0), paint)  # type: ignore[arg-type]
    svg.painted(drawing, lambda figure: paint_on(canvas, figure))
    canvas.showPage()
    canvas.save()
    page = PdfReader(io.BytesIO(file.getvalue())).pages[0].get_contents()
    assert page is not None
    return page.get_data().decode("latin-1")


def square(axes: Axes) -> None:
    axes.set_xlim(0, svg.WIDTH)
    axes.set_ylim(0, 200)
    axes.set_axis_off()


def test_a_line_lies_where_its_numbers_say() -> None:
    def paint(axes: Axes) -> None:
        square(axes)
        axes.plot([10, 110], [20, 70], color="#ff0000", linewidth=3)

    found = commands(paint)
    assert re.search(r"10 20 m 110 70 l", found)
    assert "1 0 0 RG" in found
    assert re.search(r"\b3 w\b", found)


def test_dashes_and_transparency_reach_the_paper() -> None:
    def paint(axes: Axes) -> None:
        square(axes)
        axes.plot([0, 9], [0, 9], linestyle=(0, (5, 2)), linewidth=2, alpha=0.25)

    found = commands(paint)
    assert re.search(r"\[\s*10 4\s*\] 0(\.0)? d", found), "dashes are in units of the line's width"
    assert "gs" in found


def test_a_quadratic_curve_is_the_same_curve_in_cubic_terms() -> None:
    bend = Outline([(0, 0), (30, 60), (60, 0)], [Outline.MOVETO, Outline.CURVE3, Outline.CURVE3])

    def paint(axes: Axes) -> None:
        square(axes)
        axes.add_patch(PathPatch(bend, facecolor="none", linewidth=1))

    numbers = re.search(r"0 0 m ([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+) c", commands(paint))
    assert numbers is not None
    first, second = np.array([float(one) for one in numbers.groups()]).reshape(3, 2)[:2]
    for share in (0.25, 0.5, 0.75):
        quadratic = 2 * share * (1 - share) * np.array([30, 60]) + share**2 * np.array([60, 0])
        cubic = (
            3 * share * (1 - share) ** 2 * first + 3 * share**2 * (1 - share) * second + share**3 * np.array([60, 0])
        )
        np.testing.assert_allclose(cubic, quadratic, atol=1e-3)


def test_hatching_stays_inside_its_shape() -> None:
    def paint(axes: Axes) -> None:
        square(axes)
        axes.add_patch(Ellipse((50, 50), 60, 40, facecolor="none", edgecolor="#b3400a", hatch="//"))

    found = commands(paint)
    assert found.count("W* n") >= 2, "one clip for the axes, one for the shape"
    plain = commands(lambda axes: (square(axes), axes.add_patch(Ellipse((50, 50), 60, 40, facecolor="none")))[0])
    assert found.count(" l") > plain.count(" l") + 10


def test_words_are_text_and_not_outlines() -> None:
    file = io.BytesIO()
    canvas = Canvas(file, invariant=1)
    drawing = svg.Drawing(
        "d", "words", svg.Frame(height=100), lambda axes: (axes.text(0.1, 0.5, "ε = 8, näher"), None)[1]
    )
    svg.painted(drawing, lambda figure: paint_on(canvas, figure))
    canvas.save()
    assert "ε = 8, näher" in PdfReader(io.BytesIO(file.getvalue())).pages[0].extract_text()


def test_the_command_writes_the_page_and_the_pdf_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, sums_only_results(), SUMS_ONLY, ())
    app(["report", str(folder)], standalone_mode=False)
    assert "report.html, report.pdf" in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert (folder / PDF).read_bytes() == document(read_run(folder))
    assert (folder / "report.html").exists()
