# ruff: noqa: E501  (texts and pages as they come)

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape as xml

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.config import Config
from newsletter.content.collect import Report, canonical_link, canonical_title, collect, read_source, slug, untracked
from newsletter.content.fetch import Fetched
from newsletter.content.issue import Story, issue_paths, load_blocks, load_issue
from newsletter.errors import CollectError, Finding, IssueError
from newsletter.shape import UNPRINTABLE, slot_problem

NOTICES = """\
• The mill: it reopens

    19 November 2017

    On 3 November, the wheel turned again.

  • Dogs and their owners

    12 November 2017

    On leads, please.

  • Our aims

    The Valley Group exists to keep the valley as it is.

  • Why join us?

    • Hear the news first
    • Support our work

    Become a member
"""


def item(title: str, day: str = "19 Nov 2017", link: str = "", text: str = "Text.") -> str:
    at = f"<link>{xml(link)}</link>" if link else ""
    return f"<item><title>{xml(xml(title))}</title><pubDate>{day}</pubDate>{at}<description>{xml(text)}</description></item>"


def rss(*items: str, language: str = "en") -> str:
    return (
        f'<rss version="2.0"><channel><title>V</title><language>{language}</language>{"".join(items)}</channel></rss>'
    )


Run = Callable[..., Report]


@pytest.fixture
def run(config: Config) -> Run:
    """Collects a text, or several, as files of the workspace."""

    def run(*texts: str, language: str | None = None, dry_run: bool = False) -> Report:
        names = []
        for number, text in enumerate(texts):
            names.append(f"source{number}.txt")
            Path(names[-1]).write_text(text, "utf-8")
        return collect(names, config, into=config.issues, language=language, dry_run=dry_run)

    return run


def stories(config: Config) -> list[tuple[str, Story]]:
    return [(path.stem, story) for path in issue_paths(config.issues) for story in load_issue(path, config).stories]


def snapshot(config: Config) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in config.issues.iterdir()}


def test_stories_go_to_the_issue_of_their_week_and_undated_texts_to_the_blocks(run: Run, config: Config) -> None:
    report = run(NOTICES.replace("19 November 2017", "18 November 2017"))
    assert [(stem, story.title, str(story.date)) for stem, story in stories(config)] == [
        ("2017-11-12", {"en": "Dogs and their owners"}, "2017-11-12"),
        ("2017-11-19", {"en": "The mill: it reopens"}, "2017-11-18"),
    ]
    blocks = load_blocks(config.issues / "blocks.yaml", config)
    assert [(name, block.style) for name, block in blocks.items()] == [
        ("our-aims", "background"),
        ("why-join-us", "background"),
    ]
    assert blocks["why-join-us"].text == {"en": "- Hear the news first\n- Support our work\n\nBecome a member"}
    assert report.written == ("issues/2017-11-12.yaml", "issues/2017-11-19.yaml", "issues/blocks.yaml")


def test_the_report_says_in_words_what_became_of_each_entry(run: Run) -> None:
    run(NOTICES)
    text = NOTICES + "\n  • Our aims\n\n    Other words.\n\n  • Cats\n\n    12 November 2017\n\n    Inside.\n"
    assert str(run(text)).split("\n") == [
        'source0.txt:1: skipped "The mill: it reopens" (2017-11-19): already in issues/2017-11-19.yaml (collected before)',
        'source0.txt:7: skipped "Dogs and their owners" (2017-11-12): already in issues/2017-11-12.yaml (collected before)',
        'source0.txt:13: skipped "Our aims" (block our-aims): already in issues/blocks.yaml (the same words)',
        'source0.txt:17: skipped "Why join us?" (block why-join-us): already in issues/blocks.yaml (the same words)',
        'source0.txt:24: renamed "Our aims" (block our-aims-2) → issues/blocks.yaml: block our-aims is there with other words',
        'source0.txt:28: added "Cats" (2017-11-12) → issues/2017-11-12.yaml',
        "1 story and 1 block added, 4 skipped; wrote issues/2017-11-12.yaml, issues/blocks.yaml",
    ]
    last = str(run(text)).split("\n")[-1]
    assert last == "0 stories and 0 blocks added, 6 skipped; nothing new"


def test_the_report_has_a_json_form(run: Run) -> None:
    made = json.loads(json.dumps(run(NOTICES).as_json()))
    assert made["added"][0] == {
        "outcome": "added",
        "title": "The mill: it reopens",
        "date": "2017-11-19",
        "file": "issues/2017-11-19.yaml",
        "block": None,
        "reason": None,
        "source": "source0.txt",
        "line": 1,
    }


def test_collecting_again_changes_nothing(run: Run, config: Config) -> None:
    run(NOTICES)
    before = snapshot(config)
    assert run(NOTICES).written == ()
    assert snapshot(config) == before


def test_a_dry_run_says_the_same_and_writes_nothing(run: Run, config: Config) -> None:
    report = run(NOTICES, dry_run=True)
    assert snapshot(config) == {}
    assert "would write issues/2017-11-12.yaml" in str(report)
    assert run(NOTICES).lines == report.lines


# --- what an editor changed ---


def test_an_edited_story_stays_as_it_is_and_is_not_added_again(run: Run, config: Config) -> None:
    feed = rss(item("The mill reopens", link="https://e.example/mill"), item("Dogs"))
    run(feed)
    path = config.issues / "2017-11-19.yaml"
    text = path.read_text("utf-8")
    for before, after in [
        ("The mill reopens", "¡Molino!  # by Ana"),
        ("Text.", "Other words."),
        ("Dogs", "Perros"),
        ("https://e.example/mill", "https://other.example/"),
        ("    date: 2017-11-19", "    date: 2017-10-01"),
        ("stories:", "# ours\nstories:"),
    ]:
        assert before in text
        text = text.replace(before, after)
    path.write_text(text, "utf-8")
    report = run(feed)
    assert [line.reason for line in report.skipped] == ["already in issues/2017-11-19.yaml (collected before)"] * 2
    assert path.read_text("utf-8") == text


def test_a_story_that_was_moved_to_another_issue_is_not_added_again(run: Run, config: Config) -> None:
    feed = rss(item("The mill reopens"))
    run(feed)
    (config.issues / "2017-11-19.yaml").rename(config.issues / "2017-12-03.yaml")
    assert not run(feed).added
    assert [path.name for path in issue_paths(config.issues)] == ["2017-12-03.yaml"]


def test_new_stories_are_appended_and_every_other_line_is_left_alone(run: Run, config: Config) -> None:
    path = config.issues / "2017-11-19.yaml"
    text = (
        "# head\ndate:   2017-11-19\nstories:\n- title: Hand made   # yes\n  date: 2017-11-14\n  # end\n\nblocks: []\n"
    )
    path.write_text(text, "utf-8")
    path.chmod(0o640)
    run(rss(item("The mill reopens")))
    after = path.read_text("utf-8")
    assert [story.title["en"] for _, story in stories(config)] == ["Hand made", "The mill reopens"]
    assert [line for line in text.split("\n") if line not in after.split("\n")] == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_lines_and_comments_of_the_blocks_stay(run: Run, config: Config) -> None:
    path = config.issues / "blocks.yaml"
    text = "# Ours.\n\naims: {title: {es: Fines},   text: Words}  # short\n# the end"
    path.write_text(text, "utf-8")
    run(NOTICES)
    assert path.read_text("utf-8").startswith(text + "\n\nour-aims:\n")
    assert list(load_blocks(path, config)) == ["aims", "our-aims", "why-join-us"]


@pytest.mark.parametrize(
    "text",
    [
        "{aims: {title: Aims}}  # short\n",
        "  aims:\n    title: Aims\n",
        "# none yet\n",
        "",
        "---\naims: {title: Aims}\n...\n",
    ],
)
def test_blocks_are_added_to_whatever_form_the_file_has(run: Run, config: Config, text: str) -> None:
    path = config.issues / "blocks.yaml"
    path.write_text(text, "utf-8")
    run(NOTICES)
    assert [name for name in load_blocks(path, config) if name != "aims"] == ["our-aims", "why-join-us"]
    assert "#" not in text or text.partition("#")[2].strip() in path.read_text("utf-8")


def test_an_issue_with_the_week_as_its_date_is_the_weeks_issue_whatever_its_name(run: Run, config: Config) -> None:
    (config.issues / "2017-11-17-special.yaml").write_text("date: 2017-11-19\n", "utf-8")
    assert [line.file for line in run(rss(item("The mill reopens"))).added] == ["issues/2017-11-17-special.yaml"]


def test_stories_in_a_folder_are_known_too(run: Run, config: Config) -> None:
    (config.issues / "2017-11-19").mkdir()
    (config.issues / "2017-11-19" / "mill.md").write_text(
        "---\ntitle: The mill reopens\ndate: 2017-11-15\n---\n", "utf-8"
    )
    (config.issues / "2017-99-99").mkdir()
    report = run(rss(item("The Mill Reopens!"), item("Dogs")))
    assert [line.reason for line in report.skipped] == ["already in issues/2017-11-19/mill.md (the same title)"]
    assert [story.title["en"] for _, story in stories(config)] == ["Dogs", "The mill reopens"]


# --- the same story ---


def test_links_that_differ_in_what_only_tracks_are_one(run: Run, config: Config) -> None:
    links = [
        "https://E.example:443/mill/?utm_source=a&id=1&fbclid=b#top",
        "http://e.example/mill?id=1&UTM_Campaign=c&mc_cid=d&mc_eid=e&gclid=f",
        "https://e.example/mill?id=1#comments",
    ]
    report = run(rss(*(item(f"Title {number}", link=link) for number, link in enumerate(links))))
    ((_, story),) = stories(config)
    assert story.url == "https://E.example:443/mill/?id=1#top"
    assert [line.reason for line in report.skipped][:1] == ["already in issues/2017-11-19.yaml (collected before)"]


def test_a_story_written_by_hand_is_known_by_its_link(run: Run, config: Config) -> None:
    text = "date: 2017-10-01\nstories: [{title: Molino, date: 2017-09-30, url: 'http://e.example/mill#x'}]\n"
    (config.issues / "2017-10-01.yaml").write_text(text, "utf-8")
    report = run(rss(item("The mill", link="https://e.example/mill/?utm_source=feed")))
    assert [line.reason for line in report.skipped] == ["already in issues/2017-10-01.yaml (the same link)"]


def test_places_of_one_page_are_stories_of_their_own(run: Run, config: Config) -> None:
    feed = rss(item("A", link="https://e.example/news#a"), item("B", link="https://e.example/news#b"))
    assert len(run(feed).added) == 2
    assert len(run(feed).added) == 0


def test_www_and_other_queries_make_other_links() -> None:
    assert canonical_link("https://www.e.example/a") != canonical_link("https://e.example/a")
    assert canonical_link("https://e.example/a?id=1") != canonical_link("https://e.example/a?id=2")
    assert canonical_link("https://e.example/") == canonical_link("http://E.example")
    assert untracked("https://e.example/a?b=%20&c#d") == "https://e.example/a?b=%20&c#d"
    assert untracked("https://e.example/a?utm_x=1&gclid=2") == "https://e.example/a"


def test_titles_are_the_same_but_for_case_quotes_blanks_and_punctuation() -> None:
    assert canonical_title(" The “MILL”  re-opens… ") == canonical_title("The 'mill' re–opens")
    assert canonical_title("Papá") != canonical_title("Papa")
    assert canonical_title("???") == "???"


def test_the_same_title_in_the_same_week_is_the_same_story(run: Run) -> None:
    report = run(
        rss(
            item("News in brief", link="https://e.example/1"),
            item("NEWS IN BRIEF", "15 Nov 2017", "https://e.example/2"),
        )
    )
    assert [line.reason for line in report.skipped] == ["already in issues/2017-11-19.yaml (the same title)"]


@pytest.mark.parametrize("linked", [True, False])
def test_a_column_that_appears_every_week_is_kept_each_time(run: Run, linked: bool) -> None:
    days = ("19 Nov 2017", "12 Nov 2017", "5 Nov 2017")
    feed = rss(*(item("News in brief", day, f"https://e.example/{day[:2]}" if linked else "") for day in days))
    assert len(run(feed).added) == 3
    assert len(run(feed).added) == 0


def test_a_story_written_by_hand_without_a_link_is_known_by_its_title(run: Run, config: Config) -> None:
    (config.issues / "2017-11-26.yaml").write_text(
        "date: 2017-11-26\nstories: [{title: The mill reopens, date: 2017-11-20}]\n", "utf-8"
    )
    report = run(rss(item("The mill reopens", link="https://e.example/mill")))
    assert [line.reason for line in report.skipped] == ["already in issues/2017-11-26.yaml (the same title)"]


def test_two_sources_of_one_run_do_not_repeat_each_other(run: Run, config: Config) -> None:
    report = run(rss(item("The mill reopens")), "The mill reopens\n19 November 2017\n\nText.\n")
    assert len(report.added) == len(report.skipped) == 1
    assert report.skipped[0].where.path == "source1.txt"


# --- languages ---


def test_texts_are_in_the_language_of_the_source_where_the_workspace_has_it(run: Run, config: Config) -> None:
    run(
        rss(item("El molino"), language="es-PE"),
        rss(item("The mill"), language="en_GB"),
        rss(item("Die Mühle"), language="de"),
    )
    assert [story.title for _, story in stories(config)] == [
        {"es": "El molino"},
        {"en": "The mill"},
        {"en": "Die Mühle"},
    ]


def test_the_language_may_be_told(run: Run, config: Config) -> None:
    run(NOTICES, language="es")
    assert all(list(story.title) == ["es"] for _, story in stories(config))
    assert load_blocks(config.issues / "blocks.yaml", config)["our-aims"].title == {"es": "Our aims"}


def test_a_language_the_workspace_lacks_is_refused(run: Run) -> None:
    with pytest.raises(CollectError) as caught:
        run(NOTICES, language="de")
    assert "en, es" in caught.value.findings[0].help


def test_the_week_ends_on_the_day_the_workspace_says(run: Run, config: Config) -> None:
    Path("s.txt").write_text(NOTICES, "utf-8")
    friday = replace(config, week_ends="friday")
    report = collect(["s.txt"], friday, into=config.issues)
    assert report.written == ("issues/2017-11-17.yaml", "issues/2017-11-24.yaml", "issues/blocks.yaml")


# --- what goes wrong ---


def problems(error: pytest.ExceptionInfo[CollectError] | pytest.ExceptionInfo[IssueError]) -> tuple[Finding, ...]:
    assert all(finding.help for finding in error.value.findings)
    return error.value.findings


def test_one_bad_source_stops_all_and_every_bad_one_is_named(run: Run, config: Config) -> None:
    with pytest.raises(CollectError) as caught:
        run(NOTICES, "no dates here\n", rss())
    assert [finding.where.path for finding in problems(caught) if finding.where] == ["source1.txt", "source2.txt"]
    assert snapshot(config) == {}


def test_an_issue_that_does_not_load_stops_all_and_is_left_alone(run: Run, config: Config) -> None:
    (config.issues / "2017-01-01.yaml").write_text("date: never\n", "utf-8")
    (config.issues / "blocks.yaml").write_text("aims: 3\n", "utf-8")
    before = snapshot(config)
    with pytest.raises(IssueError) as caught:
        run(NOTICES)
    assert [finding.where.path for finding in problems(caught) if finding.where] == [
        "issues/2017-01-01.yaml",
        "issues/blocks.yaml",
    ]
    assert snapshot(config) == before


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("none.txt", None, "not-found"),
        ("empty.txt", b" \n", "no-stories"),
        ("report.pdf", b"%PDF-1.7\n%\xe2\xe3", "not-text"),
        ("letter.docx", b"PK\x03\x04\x14\x00", "not-text"),
        ("noise.txt", bytes(range(256)) * 20, "not-text"),
        ("large.txt", b"x\n" * 3_000_000, "too-large"),
        ("page.html", b"<html><body><p>Nothing</p></body></html>", "no-stories"),
        ("nul\0.txt", None, "unreadable"),
        (".", None, "unreadable"),
    ],
)
def test_what_is_no_source_is_refused_with_a_next_step(
    config: Config, name: str, body: bytes | None, code: str
) -> None:
    if body is not None:
        Path(name).write_bytes(body)
    with pytest.raises(CollectError) as caught:
        collect([name], config, into=config.issues)
    assert [finding.code for finding in problems(caught)] == [f"collect.{code}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_said(run: Run, config: Config) -> None:
    config.issues.chmod(0o555)
    with pytest.raises(CollectError) as caught:
        run(NOTICES)
    config.issues.chmod(0o755)
    assert [finding.code for finding in problems(caught)] == ["collect.write"]


def test_nothing_is_left_beside_the_files_when_writing_fails(run: Run, config: Config) -> None:
    (config.issues / "blocks.yaml").symlink_to("blocks.yaml")  # leads nowhere
    with pytest.raises((CollectError, IssueError)):
        run(NOTICES)
    assert [path.name for path in config.issues.iterdir()] == ["blocks.yaml"]


def test_a_link_to_a_file_stays_a_link(run: Run, config: Config) -> None:
    Path("elsewhere.yaml").write_text("date: 2017-11-19\n", "utf-8")
    (config.issues / "2017-11-19.yaml").symlink_to("../elsewhere.yaml")
    run(rss(item("The mill reopens")))
    assert (config.issues / "2017-11-19.yaml").is_symlink()
    assert "The mill reopens" in Path("elsewhere.yaml").read_text("utf-8")


# --- sources ---


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ("Perú\n19 November 2017\n\nCañón — “sí”.\n".encode(), ""),
        ("Perú\n19 November 2017\n\nCañón — “sí”.\n".encode("utf-8-sig"), ""),
        ("Perú\r\n19 November 2017\r\n\r\nCañón — “sí”.\r\n".encode("utf-16"), ""),
        ("Perú\n19 November 2017\n\nCañón — “sí”.\n".encode("cp1252"), ""),
        ("Perú\n19 November 2017\n\nCañón — “sí”.\n".encode("cp1252"), "ISO-8859-1"),
        ("Perú\n19 November 2017\n\nCañón — “sí”.\n".encode(), "no-such-charset"),
        ("Perú\n19 November 2017\n\nCañón — “sí”.\n".encode("utf-16-le"), "utf-16le"),
        (
            ('<?xml version="1.0" encoding="windows-1252"?>' + rss(item("Perú", text="Cañón — “sí”."))).encode(
                "cp1252"
            ),
            "",
        ),
        (('<?xml version="1.0" encoding="utf-16"?>' + rss(item("Perú", text="Cañón — “sí”."))).encode("utf-16-be"), ""),
        (('<?xml version="1.0" encoding="utf-16"?>' + rss(item("Perú", text="Cañón — “sí”."))).encode(), ""),
        (
            '<html><head><meta charset="latin1"></head><h1>Perú</h1><p>19/11/2017</p><p>Cañón — “sí”.</p>'.encode(
                "cp1252"
            ),
            "",
        ),
    ],
)
def test_whatever_encoding_is_declared_or_can_be_told_is_read(body: bytes, charset: str) -> None:
    found = read_source("https://e.example/x", fetch=lambda url: Fetched(body=body, url=url, charset=charset))
    (story,) = found.stories
    assert (story.title, story.summary, str(story.date)) == ("Perú", "Cañón — “sí”.", "2017-11-19")


def test_a_source_is_known_by_its_content_not_by_its_name(config: Config) -> None:
    Path("feed.txt").write_text(rss(item("A")), "utf-8")
    Path("list.xml").write_text("B\n19 November 2017\n\nText.\n", "utf-8")
    Path("list.json").write_text("<html><h1>C</h1><time>19 November 2017</time><p>Text.</p>", "utf-8")
    assert [
        line.title for line in collect(["feed.txt", "list.xml", "list.json"], config, into=config.issues).added
    ] == ["A", "B", "C"]


def test_a_url_is_fetched_and_its_links_are_relative_to_where_it_ended(config: Config) -> None:
    def fetch(url: str) -> Fetched:
        return Fetched(body=rss(item("A", link="/a")).encode(), url="https://end.example/feed", charset="utf-8")

    collect(["https://start.example/feed"], config, into=config.issues, fetch=fetch)
    assert [story.url for _, story in stories(config)] == ["https://end.example/a"]


def test_a_url_with_another_scheme_is_not_taken_for_a_file(config: Config) -> None:
    with pytest.raises(CollectError) as caught:
        collect(["file:///etc/passwd"], config, into=config.issues)
    assert [finding.code for finding in problems(caught)] == ["collect.fetch"]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Why join the PSG?", "why-join-the-psg"),
        ("¿Quiénes somos?", "quienes-somos"),
        ("Пять", "block"),
        ("no", "no"),
        ("A very long title that goes on and on and on", "a-very-long-title-that-goes-on-and-on"),
        ("x" * 60, "x" * 40),
    ],
)
def test_a_block_is_named_after_its_title(title: str, name: str) -> None:
    assert slug(title) == name


# --- whatever a feed holds ---

signs = st.text(st.characters(exclude_categories=["Cs"]), max_size=25)
awkward = st.lists(
    st.one_of(
        signs,
        st.sampled_from(
            [
                "@@",
                "@@NAME@@",
                "&#64;",
                "<b>",
                "</p>",
                "* ",
                "1. ",
                "# ",
                "---",
                "[x](y)",
                "\u2028",
                "\x00",
                "\n\n",
                "'",
                '"',
                ": ",
            ]
        ),
    ),
    max_size=5,
).map("".join)


def words(text: str) -> str:
    return "".join(sign for sign in re.sub("[\u2060\ufeff\\\\]", "", UNPRINTABLE.sub("", text)) if not sign.isspace())


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(awkward, awkward, awkward, st.booleans())
def test_whatever_a_feed_holds_is_skipped_with_a_reason_or_survives(
    config: Config, title: str, text: str, link: str, html: bool
) -> None:
    for path in config.issues.iterdir():
        path.unlink()
    content = {"content_html": f"<p>{xml(text)}</p>"} if html else {"content_text": text}
    feed = {
        "version": "https://jsonfeed.org/version/1.1",
        "items": [{"title": title, "url": f"https://e.example/{link}", "date_published": "2017-11-19", **content}],
    }
    Path("feed.json").write_text(json.dumps(feed), "utf-8")
    report = collect(["feed.json"], config, into=config.issues)
    if not report.added:
        assert [line.reason for line in report.skipped] == ["has no title"]
        assert not words(title)
        assert not words(text)
        return
    ((_, story),) = stories(config)
    summary = story.summary.get("en", "")
    if words(title):
        assert words(story.title["en"]) == words(title)
    assert not slot_problem(story.title["en"] + " " + summary)
    assert "@@" not in (story.url or "")
    assert str(collect(["feed.json"], config, into=config.issues)).endswith("1 skipped; nothing new")


ENGLISH = "The mill in the valley has turned for a hundred years, and it will turn for a hundred more, they say."
SPANISH = "El molino del valle gira desde hace cien años, y los vecinos dicen que va a girar otros cien en el río."


def test_texts_without_a_stated_language_go_by_their_words(run: Run, config: Config) -> None:
    report = run(f"Mill\n19 November 2017\n\n{ENGLISH}\n\nMolino\n18 November 2017\n\n{SPANISH}\n")
    assert [list(story.title) for _, story in stories(config)] == [["en"], ["es"]]
    assert [each.code for each in report.problems] == ["collect.language"]
    assert "1 as es" in report.problems[0].message


def test_words_do_not_tell_a_language_where_it_is_stated_or_where_others_might_be_meant(config: Config) -> None:
    text = f"Molino\n18 November 2017\n\n{SPANISH}\n"
    Path("a.txt").write_text(text, "utf-8")
    for number, (known, stated) in enumerate([(config, "en"), (replace(config, languages=("en", "es", "pt")), None)]):
        report = collect(["a.txt"], known, into=Path(f"into{number}"), language=stated)
        assert not report.problems
        assert list(load_issue(Path(f"into{number}/2017-11-19.yaml"), config).stories[0].title) == ["en"]


def test_a_block_is_known_by_its_words_whatever_its_name_and_marks(run: Run, config: Config) -> None:
    before = (
        "why: {style: call, title: Our aims, text: 'The *Valley Group* exists to keep the valley as it is.', url: "
        "'https://e.example/x', button: '', note: ''}\n"
    )
    (config.issues / "blocks.yaml").write_text(before.replace(", button: '', note: ''", ""), "utf-8")
    report = run(NOTICES)
    assert [line.reason for line in report.skipped if line.name == "why"] == [
        "already in issues/blocks.yaml (the same words)"
    ]
    assert "our-aims" not in load_blocks(config.issues / "blocks.yaml", config)


def test_the_link_of_a_standing_text_is_kept(run: Run, config: Config) -> None:
    run(NOTICES.replace("as it is.", "as it is.\n\n    https://e.example/aims?utm_source=x"))
    assert load_blocks(config.issues / "blocks.yaml", config)["our-aims"].url == "https://e.example/aims"


def test_lines_that_end_as_windows_has_it_and_comments_stay(run: Run, config: Config) -> None:
    path = config.issues / "2017-11-19.yaml"
    path.write_bytes(
        b"# kept\r\ndate: 2017-11-19\r\nstories:\r\n  - title: Other  # kept too\r\n    date: 2017-11-19\r\n"
    )
    run(NOTICES)
    assert path.read_text("utf-8").startswith("# kept\ndate: 2017-11-19\nstories:\n  - title: Other  # kept too\n")
    assert [story.title["en"] for story in load_issue(path, config).stories] == ["Other", "The mill: it reopens"]


def test_a_story_moved_to_another_issue_as_a_file_of_its_own_is_known(run: Run, config: Config) -> None:
    run(rss(item("Mill", link="https://e.example/mill")))
    ((_, story),) = stories(config)
    (config.issues / "2017-11-19.yaml").write_text("date: 2017-11-19\n", "utf-8")
    (config.issues / "2017-12-03").mkdir()
    (config.issues / "2017-12-03/a.md").write_text(
        f'---\ntitle: Quite another\ndate: 2017-11-30\ncollected: "{story.collected}"\n---\nText.\n', "utf-8"
    )
    assert not run(rss(item("Mill", link="https://e.example/mill"))).added
