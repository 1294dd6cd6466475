import html
import re
from html.parser import HTMLParser

import pytest

from dist_calo.physics.metrics.half_sample_bootstrap import Measured
from dist_calo.physics.metrics.metric_definitions import METRICS
from dist_calo.physics.report import report_html, write_report
from dist_calo.physics.report.rounding import floor_of, level_of, sigmas_in_words, with_error
from tests.support.evaluations import evaluated
from tests.support.reports import GRID, HOSTILE, showers, small_evaluation, small_page

VOID = {"meta", "img", "br", "link"}


@pytest.fixture(scope="module")
def evaluation():
    return small_evaluation()


@pytest.fixture(scope="module")
def page(evaluation):
    return small_page()


@pytest.fixture(scope="module")
def parsed(page):
    parser = Page()
    parser.feed(page)
    return parser


class Page(HTMLParser):
    """Elements with their attributes, and whether every one is closed."""

    def __init__(self):
        super().__init__()
        self.elements, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


def words(page):
    return html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S)))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0123, 0.00151, "0.0123 ± 0.0015"),
        (0.5, 0.0996, "0.50 ± 0.10"),
        (12345.0, 1512.0, "12,345 ± 1,512"),
        (-0.0213, 0.0044, "−0.0213 ± 0.0044"),
        (-0.00001, 0.01, "0.000 ± 0.010"),
        (1.234e-7, 1.5e-8, "(1.23 ± 0.15)·10⁻⁷"),
        (0.25, float("nan"), "0.250"),
        (float("nan"), float("nan"), "–"),
        (3.0, 0.0, "3.00 ± 0.00"),
    ],
)
def test_an_error_has_two_digits_and_its_value_as_many_decimals(value, error, text):
    assert with_error(value, error) == text


def test_a_floor_has_the_digits_of_its_own_spread():
    assert floor_of(Measured(value=0.85, error=0.01, floor=0.00123, spread=0.0004, sigmas=80)) == "0.00123"


def test_sigmas_are_colours_and_words():
    assert [level_of(sigmas) for sigmas in (0.0, 1.9, 2.0, 4.0, 7.0, 11.0)] == [0, 0, 1, 2, 3, 4]
    assert level_of(float("inf")) == 4
    assert level_of(float("nan")) is None
    assert [sigmas_in_words(sigmas) for sigmas in (1.94, 120.0, float("inf"))] == [
        "1.9 σ",
        "> 100 σ",
        "> 100 σ",
    ]
    assert sigmas_in_words(float("nan")) == ""


def test_every_element_is_closed(parsed):
    assert parsed.open == []


def test_the_report_has_its_sections(parsed, evaluation):
    anchors = {attributes["id"] for attributes in parsed.all("h2")}
    wanted = {
        "glance",
        "whole",
        "response",
        "profiles",
        "observables",
        "correlations",
        "showers",
        "history",
        "facts",
    }
    assert wanted <= anchors
    assert {f"bin-{number}" for number in range(3)} <= anchors
    links = {attributes["href"] for attributes in parsed.all("a")}
    assert links == {f"#{anchor}" for anchor in anchors - {"notes"}}


def test_every_summary_group_stands_in_the_first_table(page, evaluation):
    table = words(page[page.index("Observables at a glance</caption>") : page.index("</table>")])
    for group in evaluation.observer.summary_groups:
        assert evaluation.observer.labels[group] in table
    number = evaluation.numbers["wasserstein_scaled/response"]
    assert with_error(number.value, number.error) in table


def test_every_number_of_all_showers_has_its_meaning(page, evaluation):
    for name in evaluation.whole:
        assert METRICS[name.split("/")[0]].meaning in words(page)


def test_what_is_not_computed_is_said_with_the_remedy(page):
    assert "--classifier high" in words(page)
    assert "KPD, precision, recall, density, coverage" in words(page)


def test_a_bin_without_showers_says_so(page):
    section = page[page.index('id="bin-2"') :]
    assert "nothing is compared" in words(section[: section.index("</section>")])


def test_the_verdict_counts_and_names_the_worst(page):
    first = words(page[page.index('class="verdict"') : page.index("</header>")])
    assert re.search(r"Score .* \d+ of \d+ numbers are within 2 sigmas", " ".join(first.split()))
    assert first.count("σ)") == 3


def test_facts_and_names_are_escaped(page):
    assert "<script" not in page
    assert "<b>" not in page
    assert HOSTILE in words(page)
    assert "GAN <b> compared with Geant4 11.4" in words(page)


def test_nothing_is_fetched(page, parsed):
    sources = [
        element.get("src") or element.get("href") for element in parsed.all("img", "a", "link", "script")
    ]
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "url(" not in page
    assert "@import" not in page


def test_every_picture_has_a_description_and_a_size(parsed):
    pictures = parsed.all("img")
    assert len(pictures) > 12
    assert all(len(picture["alt"]) > 20 and int(picture["width"]) > 200 for picture in pictures)


def test_the_file_is_small(page):
    assert len(page.encode()) < 5e6


def test_the_names_of_the_samples_are_those_of_the_evaluation(page):
    assert "Geant4 11.4" in words(page)


def test_a_report_is_written_whole_or_not_at_all(evaluation, tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.html"
    monkeypatch.setattr("dist_calo.physics.report.page.report_html", lambda evaluation, drawings: "whole")
    write_report(evaluation, path)
    assert path.read_text() == "whole"
    monkeypatch.setattr("dist_calo.physics.report.page.report_html", lambda evaluation, drawings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(evaluation, path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert path.read_text() == "whole"


@pytest.mark.parametrize(("real", "fake"), [(3, 1), (30, 3)])
def test_tiny_samples_have_a_report(real, fake):
    report = words(report_html(evaluated(GRID, showers(real, 1), showers(fake, 2), (1.0, 100.0))))
    assert "nothing is compared" not in report
    assert f"at least 20 showers of each sample are needed, there are {real} and {fake}" in report
