"""What mrml and the inlining make of our templates, against the official MJML, to the pixel.

    npm install --prefix /tmp/reference mjml5@npm:mjml@5.4.1 mjml4@npm:mjml@4.18.0
    .venv/bin/python benchmarks/fidelity/compare.py /tmp/reference

Needs node and Chromium. Every message of the sample workspace and of tests/golden/workspace is compiled three times
from the same normalised MJML. The references get content.css as a <style>, ours has it in its style attributes: so the
cascade is compared too. Each is photographed in whole at four widths, light and dark; what only Outlook reads, the
conditional comments, is compared tag by tag. Prints a line per message and reference with the share of pixels that
differ; exit code 1 when there is one. --keep DIR keeps the documents and pictures that differ.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from browser import Browser, find_chromium  # noqa: E402
from newsletter.config import load_config  # noqa: E402
from newsletter.content.issue import issue_paths, load_issue  # noqa: E402
from newsletter.errors import Where  # noqa: E402
from newsletter.rendering import render  # noqa: E402
from newsletter.rendering.edition import Edition  # noqa: E402
from newsletter.rendering.images import load_image  # noqa: E402
from newsletter.rendering.inline import inline_css  # noqa: E402
from newsletter.rendering.mjml import compile_mjml, normalise  # noqa: E402

WIDTHS = (320, 375, 600, 1200)

# Each picture is drawn in a canvas and compared by its bytes; the pictures come as data: URLs, which a page may read.
DIFFERENCE = """(async (pictures) => {
  const pixels = await Promise.all(pictures.map(async (data) => {
    const image = new Image();
    image.src = "data:image/png;base64," + data;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true });
    canvas.drawImage(image, 0, 0);
    return { width: image.width, height: image.height,
             words: new Uint32Array(canvas.getImageData(0, 0, image.width, image.height).data.buffer) };
  }));
  const [one, other] = pixels;
  const all = Math.max(one.words.length, other.words.length);
  let different = all - Math.min(one.words.length, other.words.length);
  for (let at = 0; at < all - different; at++) if (one.words[at] !== other.words[at]) different++;
  return different / all;
})"""


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message: what it was made from, and what we made of it."""

    name: str
    mjml: str
    css: str
    edition: Edition


def messages(workspace: Path) -> list[Message]:
    """Every edition and notice of a workspace; its newest issue without tagline, address and logo; and with a logo."""
    config = load_config(workspace, {})
    templates = render.load_templates(config)
    bare = replace(templates, config=replace(config, tagline={}, postal_address={}), logo=None)
    logo = replace(templates, logo=load_image("images/logo.png", config, Where(path="newsletter.yaml")))
    issues = [load_issue(path, config) for path in issue_paths(config.issues)]
    made = []
    for language in config.languages:
        made += [_message(issue.name, render.render_issue, issue, language, templates) for issue in issues]
        made.append(_message("bare", render.render_issue, issues[-1], language, bare))
        made.append(_message("logo", render.render_issue, issues[0], language, logo))
        made += [_message(each, render.render_notice, each, language, templates) for each in ("confirm", "welcome")]
    return made


def _message(
    name: str, make: Callable[..., tuple[Edition, object]], what: object, language: str, by: object
) -> Message:
    """Listens in on the two calls that lie between the templates and the finished HTML."""
    with (
        patch.object(render, "compile_mjml", wraps=compile_mjml) as compiler,
        patch.object(render, "inline_css", wraps=inline_css) as inliner,
    ):
        edition, _ = make(what, language, by)
    css = inliner.call_args.args[1]
    return Message(name=f"{name} {language}", mjml=normalise(compiler.call_args.args[0]), css=css, edition=edition)


def references(module: str, made: Sequence[Message], modules: Path) -> list[str]:
    """The HTML of the messages by an official compiler, our CSS in its first <style>."""
    script = Path(__file__).with_name("reference.cjs")
    request = json.dumps({"module": module, "documents": [each.mjml for each in made]})
    run = subprocess.run(["node", script], cwd=modules, input=request, capture_output=True, text=True, check=True)
    documents = []
    for message, document in zip(made, json.loads(run.stdout), strict=True):
        for error in document["errors"]:
            print(f"{message.name}: {module} says {error}")
        documents.append(document["html"].replace("<style", f"<style>{message.css}</style><style", 1))
    return documents


def photographs(documents: Sequence[str], browser: Browser, folder: Path) -> list[dict[str, bytes]]:
    """Each document at every width, light and dark: "375 dark" → PNG. The documents' images lie in the folder."""
    taken = []
    for document in documents:
        path = folder / "page.html"
        path.write_text(document.replace("https://news.example.org/images/", ""), "utf-8")
        browser.open(path)
        shots = {}
        for width in WIDTHS:
            for dark in (False, True):
                browser.view(width, dark=dark)
                shots[f"{width} {'dark' if dark else 'light'}"] = browser.shot()
        taken.append(shots)
    return taken


def difference(one: bytes, other: bytes, browser: Browser) -> float:
    """The share of pixels that differ, 0 to 1; where one picture is longer, the rest of it counts as different."""
    if one == other:
        return 0.0
    pictures = json.dumps([base64.b64encode(each).decode() for each in (one, other)])
    return float(browser.run(f"{DIFFERENCE}({pictures})"))


def for_outlook(html: str) -> list[tuple[str, ...]]:
    """The tags inside the conditional comments, their attributes and declarations in order. Not the classes, of which
    mrml gives only the last a suffix.
    """
    found = []
    for comment in re.findall(r"<!--\[if mso[^>]*>(.*?)<!\[endif\]-->", html, re.DOTALL):
        for tag, attributes in re.findall(r"<(/?[\w:]+)([^>]*)>", comment):
            said = {name: value for name, value in re.findall(r'([\w:-]+)="([^"]*)"', attributes) if name != "class"}
            if "style" in said:
                said["style"] = ";".join(sorted(each.strip() for each in said["style"].split(";") if each.strip()))
            found.append((tag, *sorted(f"{name}={value}" for name, value in said.items() if value)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("modules", type=Path, help="the folder that holds node_modules with mjml5 and mjml4")
    parser.add_argument("--keep", type=Path, help="a folder for what differs")
    options = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        parser.error("there is no Chromium on this machine")
    made = [message for at in (ROOT, ROOT / "tests/golden/workspace") for message in messages(at)]
    official = {module: references(module, made, options.modules) for module in ("mjml5", "mjml4")}
    worst, pairs, outlook = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as name, Browser(chromium) as browser:
        folder = Path(name)
        for image in {image.name: image for message in made for image in message.edition.images}.values():
            (folder / image.name).write_bytes(image.content)
        for number, message in enumerate(made):
            theirs = {module: documents[number] for module, documents in official.items()}
            ours, *others = photographs([message.edition.html, *theirs.values()], browser, folder)
            for module, other in zip(theirs, others, strict=True):
                found = {view: difference(shot, other[view], browser) for view, shot in ours.items()}
                pairs += len(found)
                worst = max(worst, *found.values())
                if for_outlook(message.edition.html) != for_outlook(theirs[module]):
                    outlook += 1
                    print(f"{message.name:<16} {module}  differs in what Outlook reads")
                off = ", ".join(f"{view} {share:.3%}" for view, share in found.items() if share)
                print(f"{message.name:<16} {module}  {max(found.values()):7.3%}  {off}", flush=True)
                if off and options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    stem = f"{message.name} {module}"
                    (options.keep / f"{stem}.html").write_text(theirs[module], "utf-8")
                    (options.keep / f"{message.name} ours.html").write_text(message.edition.html, "utf-8")
                    for view, share in found.items():
                        if share:
                            (options.keep / f"{stem} {view}.png").write_bytes(other[view])
                            (options.keep / f"{stem} {view} ours.png").write_bytes(ours[view])
    print(f"{len(made)} messages, {pairs} pairs of pictures, the worst differs in {worst:.3%} of its pixels")
    print(f"{outlook} documents differ in what only Outlook reads")
    return 1 if worst or outlook else 0


if __name__ == "__main__":
    sys.exit(main())
