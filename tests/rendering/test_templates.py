"""What the sample's templates promise, for every message of two workspaces: the sample, and one full of what is hard to
lay out (tests/golden/workspace: two directions, missing translations, pictures of every shape, words that do not fit).

Some messages are kept as golden files in tests/golden. After a wanted change write them again, and read the diff:

    GOLDEN=write .venv/bin/python -m pytest tests/rendering/test_templates.py -k golden
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lxml.html import document_fromstring

from browser import Browser, find_chromium
from newsletter.config import Config, load_config
from newsletter.content.issue import Issue, Story, issue_paths, load_issue
from newsletter.errors import Where
from newsletter.rendering.edition import SLOT, Edition
from newsletter.rendering.images import load_image
from newsletter.rendering.plaintext import WIDTH
from newsletter.rendering.render import NOTICES, Templates, load_templates, render_issue, render_notice

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
HARD = GOLDEN / "workspace"
RTL = ("he", "ar")


@cache
def _workspace(root: Path) -> tuple[Config, Templates, dict[str, Issue]]:
    config = load_config(root, {})
    issues = {path.stem: load_issue(path, config) for path in issue_paths(config.issues)}
    return config, load_templates(config), issues


@cache
def messages() -> Mapping[str, Edition]:
    """Every message by its name: "sample 2017-11-19 es", "hard confirm he"; and "logo he", the hard one with a logo."""
    made: dict[str, Edition] = {}
    for name, root in (("sample", ROOT), ("hard", HARD)):
        config, templates, issues = _workspace(root)
        for language in config.languages:
            for stem, issue in issues.items():
                made[f"{name} {stem} {language}"] = render_issue(issue, language, templates)[0]
            for notice in NOTICES:
                made[f"{name} {notice} {language}"] = render_notice(notice, language, templates)[0]
    config, templates, issues = _workspace(HARD)
    logo = load_image("images/logo.png", config, Where(path="newsletter.yaml"))
    for language in ("en", "he"):
        made[f"logo {language}"] = render_issue(issues["2026-11-17"], language, replace(templates, logo=logo))[0]
    return made


NAMES = [
    *(
        f"sample {each} {language}"
        for language in ("en", "es")
        for each in (*(path.stem for path in issue_paths(ROOT / "issues")), *NOTICES)
    ),
    *(
        f"hard {each} {language}"
        for language in ("en", "es", "he", "ar")
        for each in (*(path.stem for path in issue_paths(HARD / "issues")), *NOTICES)
    ),
    "logo en",
    "logo he",
]
DIGESTS = [name for name in NAMES if not set(NOTICES) & set(name.split())]
ALL_LINKS = {"UNSUBSCRIBE_URL", "PREFERENCES_URL", "VIEW_URL"}
LINKS = {  # of the notices; all others carry ALL_LINKS
    "confirm": {"CONFIRM_URL"},
    "link": {"CONFIRM_URL"},
    "address": {"CONFIRM_URL"},
    "known": {"PREFERENCES_URL"},
    "moved": set[str](),
}


def parsed(html: str) -> Any:
    """The document element. Any, as the types of what xpath gives are everything that it might give."""
    return document_fromstring(html)


@cache
def page(name: str) -> Any:
    return parsed(messages()[name].html)


def styles(name: str) -> list[str]:
    return [str(element.text) for element in page(name).iter("style")]


def words(element: Any) -> str:
    return " ".join(str(element.text_content()).split())


def test_the_list_of_names_is_complete() -> None:
    assert set(NAMES) == set(messages())


# --- what every part carries ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_slot_is_a_whole_attribute_value(name: str) -> None:
    html = messages()[name].html
    assert SLOT.findall(html) == re.findall(rf'="{SLOT.pattern}"', html)


@pytest.mark.parametrize("name", NAMES)
def test_a_slot_is_a_whole_line_of_the_text(name: str) -> None:
    text = messages()[name].text
    assert SLOT.findall(text) == re.findall(rf"^{SLOT.pattern}$", text, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_both_parts_carry_the_same_slots(name: str) -> None:
    edition = messages()[name]
    wanted = LINKS.get(name.split()[1], ALL_LINKS)
    assert set(SLOT.findall(edition.html)) == wanted
    assert set(SLOT.findall(edition.text)) == wanted


@pytest.mark.parametrize("name", [name for name in NAMES if name.split()[1] in LINKS])
def test_a_mail_that_a_stranger_may_have_caused_leads_nowhere_but_where_it_asks_to_go(name: str) -> None:
    """No promotion, no link but the one (STANDARDS.md §7.9), and nothing that the stranger could have written."""
    slots = [f"@@{slot}@@" for slot in LINKS[name.split()[1]]]
    edition = messages()[name]
    assert [element.get("href") for element in page(name).iter() if element.get("href") is not None] == slots
    assert re.findall(r"@@\w+@@|\S+://\S+|www\.\S+", edition.text) == slots
    assert "@@NAME@@" not in edition.html + edition.text + edition.subject


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_fetched_but_the_images_of_the_workspace(name: str) -> None:
    edition = messages()[name]
    fetched = [element.get("src") for element in page(name).iter() if element.get("src") is not None]
    assert all(str(src).startswith("https://news.example.org/images/") for src in fetched)
    assert not list(page(name).iter("link", "script", "iframe", "object", "embed"))
    for word in ("@font-face", "@import", "url(", "background=", "srcset", "fonts.g"):
        assert word not in edition.html


@pytest.mark.parametrize("name", NAMES)
def test_conditional_comments_are_closed_one_by_one(name: str) -> None:
    marks = re.findall(r"<!--\[if|<!\[endif\]", messages()[name].html)
    assert marks == ["<!--[if", "<![endif]"] * (len(marks) // 2)


@pytest.mark.parametrize("name", NAMES)
def test_outlook_is_told_columns_that_fit_into_the_card(name: str) -> None:
    """It takes widths from conditional comments; the card is 600 pixels wide, and no text stands at its edge."""
    widths = re.findall(r"<td[^>]*vertical-align:top;width:(\d+)px", messages()[name].html)
    assert set(widths) <= {"536", "280", "560"}


# --- styles -----------------------------------------------------------------------------------------------------------


def _rules(css: str) -> Iterator[tuple[str, str]]:
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", css):
        yield " ".join(selector.split()), body


@pytest.mark.parametrize("name", ["sample 2017-11-19 en", "hard confirm he"])
def test_rules_that_stand_against_style_attributes_are_important(name: str) -> None:
    blocks = [
        css for css in styles(name) if "prefers-color-scheme" in css or "data-ogs" in css or "max-width: 479px" in css
    ]
    assert len(blocks) == 3
    for css in blocks:
        for selector, body in _rules(css.partition("@media")[2] if "max-width" in css else css):
            declarations = [each.strip() for each in body.split(";") if each.strip()]
            assert declarations
            assert all(each.endswith("!important") for each in declarations), selector


def test_outlook_com_gets_the_same_dark_rules_in_a_style_of_their_own() -> None:
    media, marked = (css for css in styles("sample 2017-11-19 en") if "prefers-color" in css or "data-ogs" in css)
    inside = media[media.index("{") + 1 : media.rindex("}")]
    assert "prefers-color" not in marked
    assert list(_rules(inside)) == [(re.sub(r"\[data-ogs[bc]\] ", "", one), two) for one, two in _rules(marked)]


@pytest.mark.parametrize("name", NAMES)
def test_styles_stay_below_what_gmail_reads(name: str) -> None:
    """16,384 bytes; what lies beyond is dropped (github.com/hteumeuleu/email-bugs, issue 90)."""
    assert sum(len(css.encode()) for css in styles(name)) < 16_384


@pytest.mark.parametrize("name", NAMES)
def test_style_sheets_hold_no_character_references(name: str) -> None:
    """Jinja escapes quotes; in <style> nothing would turn them back."""
    assert not [css for css in styles(name) if "&#" in css or "&quot;" in css or "&amp;" in css]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(scheme: str) -> None:
    """4.5 to 1, WCAG 2.2, 1.4.3."""
    theme = getattr(_workspace(ROOT)[1].theme, scheme)
    pairs = [
        *((text, "card") for text in ("ink", "soft", "muted", "brand")),
        *((text, "panel") for text in ("ink", "brand")),
        ("muted", "page"),
        *((text, "call") for text in ("call_ink", "call_note")),
    ]
    assert not {pair: ratio for pair in pairs if (ratio := _contrast(theme[pair[0]], theme[pair[1]])) < 4.5}


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# --- structure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_headings_start_with_one_h1_and_skip_no_level(name: str) -> None:
    levels = [int(element.tag[1]) for element in page(name).iter("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("name", NAMES)
def test_every_image_has_an_alt(name: str) -> None:
    assert all(element.get("alt") is not None for element in page(name).iter("img"))


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_for_layout_and_say_so(name: str) -> None:
    tables = re.findall(r"<table\b[^>]*>", messages()[name].html)
    assert tables
    assert all('role="presentation"' in table for table in tables)


@pytest.mark.parametrize("name", NAMES)
def test_links_that_sound_alike_lead_to_the_same_place(name: str) -> None:
    """But for the contents, whose entries are the titles of the stories and lead to them on the web page."""
    places = defaultdict(set)
    for link in page(name).xpath('//a[not(ancestor::table[contains(@class, "contents")])]'):
        places[link.get("aria-label") or words(link)].add(link.get("href"))
    assert "" not in places
    assert {label: found for label, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_contents_lead_to_stories_that_are_there(name: str) -> None:
    issue, language = name.split()[-2:]
    for link in page(name).xpath('//table[contains(@class, "contents")]//a'):
        at, _, anchor = link.get("href").partition("#")
        assert at == f"https://news.example.org/archive/{language}/{issue}/"
        assert words(page(name).get_element_by_id(anchor)) == words(link)


def test_a_text_in_another_language_says_so_and_which_way_it_runs() -> None:
    document = page("hard 2026-11-24 he")
    (title,) = document.xpath('//h3[starts-with(., "Only in English")]')
    story = title.getparent()
    assert (story.get("lang"), story.get("dir"), story.get("style")) == ("en", "ltr", "text-align:left")
    source, more = story.xpath('./p[contains(@class, "source")]')[0], story.xpath('./p[@class="more"]')[0]
    assert [(each.get("lang"), each.get("dir")) for each in (source, more)] == [("he", "rtl")] * 2
    assert "padding-left:22px" in story.xpath("./ul")[0].get("style")
    assert "border-left:3px" in story.xpath("./blockquote")[0].get("style")
    (entry,) = document.xpath('//td/a[starts-with(., "Only in English")]')
    assert (entry.get("lang"), entry.get("dir")) == ("en", "ltr")


def test_a_text_in_another_language_of_the_same_direction_says_only_so() -> None:
    (title,) = page("hard 2026-11-24 es").xpath('//h3[starts-with(., "Only in English")]')
    assert dict(title.getparent().attrib) == {"lang": "en"}


def test_a_subject_and_an_intro_in_another_language_say_so() -> None:
    _, templates, issues = _workspace(HARD)
    issue = replace(issues["2026-11-24"], subject={"en": "Only English"}, intro={"en": "Only English, too."})
    document = parsed(render_issue(issue, "ar", templates)[0].html)
    (headline,) = document.iter("h1")
    (intro,) = document.xpath('//div[p[starts-with(., "Only English, too")]]')
    assert [(each.get("lang"), each.get("dir")) for each in (headline, intro)] == [("en", "ltr")] * 2


@pytest.mark.parametrize("name", NAMES)
def test_the_document_names_its_language_and_direction(name: str) -> None:
    edition = messages()[name]
    direction = "rtl" if edition.language in RTL else "ltr"
    article = page(name).xpath('//div[@role="article"]')[0]
    assert [(each.get("lang"), each.get("dir")) for each in (page(name), article)] == [
        (edition.language, direction)
    ] * 2


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(RTL)])
def test_right_to_left_all_text_starts_at_the_right(name: str) -> None:
    html = messages()[name].html
    aligned = re.findall(r"text-align:(\w+);color", html)
    if name in DIGESTS:
        assert aligned.pop(0) == "left"  # the link at the top stands at the end
    assert set(aligned) == {"right", "center"}
    assert not page(name).xpath('//a[contains(., "→")][not(ancestor::*[@dir="ltr"])]')
    assert "letter-spacing" not in html  # it would tear joined letters apart


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_of_what_a_message_lacks(name: str) -> None:
    empty = [
        element.tag
        for element in page(name).iter("p", "h1", "h2", "h3", "a", "ul", "ol", "li")
        if not words(element) and not list(element)
    ]
    assert not empty


def test_a_newsletter_may_lack_a_tagline_an_address_and_a_logo() -> None:
    config, templates, issues = _workspace(ROOT)
    bare = replace(templates, config=replace(config, tagline={}, postal_address={}), logo=None)
    edition = render_issue(issues["2017-10-29"], "en", bare)[0]
    masthead = parsed(edition.html).xpath('//table[@class="masthead"]')[0]
    assert len(masthead.findall(".//td")) == 1
    assert "tagline" not in edition.html.partition("<body")[2]
    assert "\n-- \nPeru Rights Weekly\n\nYou receive" in edition.text


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_picture_is_never_larger_than_it_is_and_never_higher_than_the_column_is_wide() -> None:
    images = {image.name: image.width for image in messages()["hard 2026-11-24 en"].images}
    shown = {
        images[str(image.get("src")).rpartition("/")[2]]: int(image.get("width"))
        for image in page("hard 2026-11-24 en").xpath('//td[contains(@class, "lead")]//img')
    }
    assert shown == {1072: 536, 120: 120, 400: 268}


# --- the text part ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_lines_of_the_text_are_short_unless_one_word_is_long(name: str) -> None:
    long = [line for line in messages()[name].text.split("\n") if len(line) > WIDTH]
    assert not [line for line in long if " " in re.sub(r"^\s*(?:[->] |\d+\. )*", "", line)]


@pytest.mark.parametrize("name", NAMES)
def test_no_line_of_the_text_ends_in_blanks_but_the_mark_of_the_signature(name: str) -> None:
    """RFC 3676, 4.3: two dashes and a blank."""
    lines = messages()[name].text.split("\n")
    assert [line for line in lines if line != line.rstrip()] == ["-- "]


@pytest.mark.parametrize("name", NAMES)
def test_paragraphs_of_the_text_are_one_empty_line_apart(name: str) -> None:
    text = messages()[name].text
    assert "\n\n\n" not in text
    assert text == text.strip() + "\n"


@pytest.mark.parametrize("name", DIGESTS)
def test_every_link_of_the_html_is_in_the_text(name: str) -> None:
    links = {str(link.get("href")) for link in page(name).iter("a")}
    missing = [link for link in links if link not in messages()[name].text]
    assert all("#s" in link for link in missing)  # the contents lead to the web page


@pytest.mark.parametrize("name", NAMES)
def test_the_text_says_everything_in_the_order_of_the_html(name: str) -> None:
    text = " ".join(messages()[name].text.split())
    at = 0
    for heading in page(name).iter("h1", "h2", "h3"):
        found = text.find(words(heading), at)
        assert found >= 0, words(heading)
        at = found


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", sorted(_workspace(ROOT)[1].labels))
def test_the_labels_of_a_language_hold_what_is_filled_in(language: str) -> None:
    labels = _workspace(ROOT)[1].labels[language]
    wanted = {
        "number": {"number"},
        "source": {"source"},
        "in_language": {"language"},
        "confirm_lists": {"lists"},
        "why": {"title"},
        **{f"{notice}_{part}": {"title"} for notice in NOTICES for part in ("subject", "text")},
        "date": {"weekday", "day", "month", "year"},
        "date_short": {"weekday", "day", "month"},
    }
    texts = {name: value for name, value in labels.words.items() if isinstance(value, str)}
    found = {name: set(re.findall(r"\{(\w+)\}", text)) for name, text in texts.items()}
    assert {name: names for name, names in found.items() if names} == wanted


@pytest.mark.parametrize("language", sorted(_workspace(ROOT)[1].labels))
def test_the_labels_of_a_language_name_twelve_months_and_seven_days(language: str) -> None:
    labels = _workspace(ROOT)[1].labels[language]
    days = [date(2026, 1, 5) + timedelta(days=each) for each in range(7)]
    assert len({labels.date(day) for day in days}) == 7
    assert len(set(labels.words["weekdays"])) == 7
    assert len(set(labels.words["months"])) == 12


# --- size -------------------------------------------------------------------------------------------------------------


def test_twenty_five_stories_fit_into_what_gmail_shows() -> None:
    """Gmail cuts a message at about 102,400 bytes of HTML, links merged in; see docs/design.md."""
    _, templates, issues = _workspace(ROOT)
    issue = issues["2017-11-19"]
    summary = (
        "The path between the old mill and the footbridge reopened on Monday, two weeks ahead of plan. Crews rebuilt "
        "340 metres of bank with willow and stone. Lighting follows in January; until then, the council asks for lamps."
    )
    stories = tuple(
        Story(
            title={"en": f"North bank path reopens after three months of repairs {number}"},
            date=issue.date - timedelta(days=number % 7),
            url=f"https://news.example.org/stories/north-bank-path-{number}",
            source={"en": "Valley Gazette"},
            summary={"en": summary},
            where=issue.where,
        )
        for number in range(25)
    )
    assert len(render_issue(replace(issue, stories=stories), "en", templates)[0].html.encode()) < 90_000


# --- golden files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["sample 2017-11-19 en", "sample 2017-11-19 es", "sample confirm en", "hard 2026-11-24 he", "hard known es"]
)
@pytest.mark.parametrize("part", ["html", "txt"])
def test_a_message_is_as_its_golden_file(name: str, part: str) -> None:
    edition = messages()[name]
    made = re.sub(r"(?<=>)(?=<)", "\n", edition.html).rstrip() + "\n" if part == "html" else edition.text
    path = GOLDEN / f"{name.replace(' ', '-')}.{part}"
    if os.environ.get("GOLDEN") == "write":
        path.write_text(made, "utf-8")
    assert made == path.read_text("utf-8"), (
        "a wanted change? GOLDEN=write writes the files again; see the top of this file"
    )


# --- in a real browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_chromium()
    if path is None:
        assert os.environ.get("CI") != "true", "Chromium is needed here: apt-get install chromium"
        pytest.skip("needs Chromium: apt-get install chromium")
    with Browser(path) as browser:
        yield browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The messages as files, their images beside them."""
    folder = tmp_path_factory.mktemp("messages")
    for name, edition in messages().items():
        for image in edition.images:
            (folder / image.name).write_bytes(image.content)
        html = edition.html.replace("https://news.example.org/images/", "")
        (folder / f"{name}.html").write_text(html, "utf-8")
        (folder / f"{name} plain.html").write_text(re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL), "utf-8")
    return folder


SHOWN = [
    *(f"hard 2026-11-24 {language}" for language in ("en", "es", "he", "ar")),
    "hard 2026-11-10 en",
    "sample 2017-11-19 es",
    "sample welcome en",
    "hard confirm he",
]

# What sticks out of the window to either side; and texts whose contrast with what they stand on is below 4.5 to 1.
FLAWS = """(() => {
  const flaws = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) flaws.push(`scrolls to ${document.documentElement.scrollWidth}`);
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    const range = document.createRange();
    range.selectNodeContents(walker.currentNode);
    for (const box of range.getClientRects())
      if (box.left < 0 || box.right > width + 0.5) flaws.push(`sticks out: ${element.textContent.slice(0, 40)}`);
    let ground = element;
    while (ground && (colour(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
    const one = light(colour(getComputedStyle(element).color).slice(0, 3));
    const other = light(colour(getComputedStyle(ground ?? document.body).backgroundColor).slice(0, 3));
    if ((Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05) < 4.5)
      flaws.push(`faint: ${element.textContent.slice(0, 40)}`);
  }
  return flaws;
})()"""


@pytest.mark.parametrize("name", SHOWN)
def test_nothing_sticks_out_and_nothing_is_faint(name: str, browser: Browser, folder: Path) -> None:
    browser.open(folder / f"{name}.html")
    flaws = {}
    for width in (320, 375, 600, 1200):
        for dark in (False, True):
            browser.view(width, dark=dark)
            flaws[width, dark] = browser.run(FLAWS)
    assert {view: found for view, found in flaws.items() if found} == {}


@pytest.mark.parametrize("name", ["hard 2026-11-24 en", "hard 2026-11-24 ar", "sample 2017-11-19 es"])
def test_without_style_sheets_nothing_sticks_out_or_is_faint(name: str, browser: Browser, folder: Path) -> None:
    browser.open(folder / f"{name} plain.html")
    flaws = {}
    for width in (375, 700):
        browser.view(width)
        flaws[width] = browser.run(FLAWS)
    assert {view: found for view, found in flaws.items() if found} == {}


def _left(browser: Browser, *selectors: str) -> list[float]:
    script = "[...arguments].map((each) => document.querySelector(each).getBoundingClientRect().left)"
    found: list[float] = browser.run(f"(function () {{ return {script} }})({', '.join(map(repr, selectors))})")
    return found


@pytest.mark.parametrize(("language", "mirrored"), [("en", False), ("he", True), ("ar", True)])
def test_columns_and_cells_run_in_the_direction_of_the_text(
    language: str, mirrored: bool, browser: Browser, folder: Path
) -> None:
    browser.view(700)
    browser.open(folder / f"hard 2026-11-24 {language}.html")
    pairs = [
        (".pair .mj-column-per-50", ".pair .mj-column-per-50 ~ .mj-column-per-50"),
        (".count", ".entry"),
        (".line", ".line ~ .line"),
    ]
    for first, second in pairs:
        one, other = _left(browser, first, second)
        assert (one > other) == mirrored, first


@pytest.mark.parametrize(("language", "mirrored"), [("en", False), ("he", True)])
def test_the_logo_stands_before_the_name(language: str, mirrored: bool, browser: Browser, folder: Path) -> None:
    browser.view(700)
    browser.open(folder / f"logo {language}.html")
    script = """(() => {
      const box = (selector) => document.querySelector(selector).getBoundingClientRect();
      const [logo, name] = [box(".logo img"), box(".masthead td:last-child")];
      return [logo.width, logo.height, name.left - logo.right, logo.left - name.right];
    })()"""
    width, height, *gaps = browser.run(script)
    assert (width, height) == (72, 56)
    assert gaps[mirrored] == 16


def test_a_picture_keeps_its_shape_at_every_width(browser: Browser, folder: Path) -> None:
    browser.open(folder / "hard 2026-11-24 en.html")
    shapes: dict[int, Any] = {}
    for width in (320, 1200):
        browser.view(width)
        shapes[width] = browser.run(
            '[...document.querySelectorAll(".lead img")].map((each) => [each.width, each.height])'
        )
    assert shapes == {320: [[120, 90], [268, 536], [280, 140]], 1200: [[120, 90], [268, 536], [536, 268]]}


SIZES = {  # font size and line height, wide and on a phone
    ".name": ("26/30", "23/27"),
    ".tagline": ("14/20", "14/20"),
    ".line": ("14/20", "14/20"),
    ".headline": ("30/37", "27/33"),
    ".soft p": ("17/28", "17/28"),
    ".label": ("13/18", "13/18"),
    ".entry a": ("15/22", "15/22"),
    ".group": ("15/22", "15/22"),
    ".title": ("21/28", "21/28"),
    ".source": ("14/20", "14/20"),
    ".md:not(.soft) > div > p:not(.source):not(.more)": ("16/26", "16/26"),
    ".more": ("15/24", "15/24"),
    ".small .title": ("17/24", "17/24"),
    ".small p": ("15/24", "15/24"),
    ".call-title": ("26/33", "26/33"),
    ".call-ink p": ("16/26", "16/26"),
    ".call-note > div": ("14/22", "14/22"),
    ".foot p": ("13/21", "13/21"),
    ".lead img": ("14/20", "14/20"),
}


def test_type_has_the_sizes_of_the_design(browser: Browser, folder: Path) -> None:
    browser.open(folder / "hard 2026-11-24 en.html")
    script = """((selectors) => selectors.map((selector) => {
      const style = getComputedStyle(document.querySelector(selector));
      return style.fontSize.replace("px", "") + "/" + style.lineHeight.replace("px", "");
    }))"""
    found = []
    for width in (700, 375):
        browser.view(width)
        found.append(browser.run(f"{script}({list(SIZES)!r})"))
    assert {selector: both for selector, *both in zip(SIZES, *found, strict=True)} == {
        selector: list(both) for selector, both in SIZES.items()
    }
