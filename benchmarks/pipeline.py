"""What the way from issue files to finished messages costs.

    python benchmarks/pipeline.py           all of it, about 30 s
    python benchmarks/pipeline.py year      one measurement: help, issue, build, year, large

Prints, for each, the median of several runs: CPU milliseconds (or wall, where a user waits), and the peak memory of a
process that does only this. Workspaces are made in a temporary folder from the sample's templates.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

ROOT = Path(__file__).parents[1]
SENTENCES = (
    "The council published the minutes of its session on Tuesday, and three points were put off to the next one.",
    "Neighbours from four communities walked to the provincial capital to hand over a letter with 1,200 signatures.",
    "The ministry said that the inquiry would take **six weeks**, and that its report would be public.",
    "According to [the ombudsman's office](https://example.org/report), conflicts rose in two of the five regions.",
    "Lawyers for both sides will be heard again in *November*; no date has been set for a decision.",
)
FRASES = (
    "El consejo publicó el acta de su sesión del martes, y tres puntos quedaron para la próxima.",
    "Vecinos de cuatro comunidades caminaron hasta la capital provincial para entregar una carta con 1200 firmas.",
    "El ministerio informó que la investigación tomará **seis semanas** y que su informe será público.",
    "Según [la defensoría](https://example.org/informe), los conflictos aumentaron en dos de las cinco regiones.",
    "Los abogados de ambas partes serán escuchados otra vez en *noviembre*; no hay fecha para una decisión.",
)


def issue_text(day: date, stories: int) -> str:
    """An issue of so many stories, two paragraphs each, in two languages."""
    lines = [f"date: {day}", "number: 1", "subject:", "  en: News of the week", "  es: Noticias de la semana"]
    lines += ["intro:", "  en: |", f"    {SENTENCES[0]}", "  es: |", f"    {FRASES[0]}", "stories:"]
    for number in range(stories):
        lines += ["  - title:", f"      en: Story number {number} of the week of {day}"]
        lines += [f"      es: Noticia número {number} de la semana del {day}"]
        lines += [f"    date: {day - timedelta(days=number % 7)}", f"    section: {('justice', 'land')[number % 2]}"]
        lines += [f"    url: https://example.org/{day}/{number}", "    source: The Example", "    summary:"]
        for language, words in (("en", SENTENCES), ("es", FRASES)):
            lines += [f"      {language}: |", f"        {words[number % 5]} {words[(number + 1) % 5]}", ""]
            lines += [f"        {words[(number + 2) % 5]} {words[(number + 3) % 5]}"]
    return "\n".join([*lines, "blocks: [aims, history, human-rights, join]", ""])


def workspace(folder: Path, *, issues: int, stories: int) -> Path:
    """A workspace like the sample, with issues of our own."""
    shutil.copytree(ROOT / "templates", folder / "templates")
    shutil.copytree(ROOT / "issues" / "images", folder / "issues" / "images")
    shutil.copy(ROOT / "issues" / "blocks.yaml", folder / "issues")
    text = (ROOT / "newsletter.yaml").read_text("utf-8")
    (folder / "newsletter.yaml").write_text(text.replace("  human-rights:", "  land:", 1), "utf-8")
    for number in range(issues):
        day = date(2026, 1, 4) + timedelta(days=7 * number)
        (folder / "issues" / f"{day}.yaml").write_text(issue_text(day, stories), "utf-8")
    return folder


def median(run: Callable[[], object], times: int, clock: Callable[[], float] = time.process_time) -> float:
    """Median milliseconds of `times` runs."""
    taken = []
    for _ in range(times):
        begun = clock()
        run()
        taken.append((clock() - begun) * 1000)
    return statistics.median(taken)


def measure_help() -> dict[str, float]:
    command = [sys.executable, "-m", "newsletter", "--help"]
    return {"wall ms": median(lambda: subprocess.run(command, check=True, capture_output=True), 15, time.perf_counter)}


def measure_build() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        root = workspace(Path(folder), issues=1, stories=10)
        command = [sys.executable, "-m", "newsletter", "-w", str(root), "build"]
        run = lambda: subprocess.run(command, check=True, capture_output=True)  # noqa: E731
        return {"wall ms": median(run, 9, time.perf_counter)}


def measure_issue() -> dict[str, float]:
    from newsletter.config import load_config
    from newsletter.content import markdown
    from newsletter.content.issue import issue_paths, load_issue
    from newsletter.rendering.render import load_templates, render_issue

    with tempfile.TemporaryDirectory() as folder:
        config = load_config(workspace(Path(folder), issues=1, stories=10), {})
        path = issue_paths(config.issues)[0]
        templates = load_templates(config)

        def run() -> None:
            markdown._tokens.cache_clear()  # noqa: SLF001 - each week's texts are new
            render_issue(load_issue(path, config), "en", templates)

        run()
        load = median(lambda: load_issue(path, config), 30)
        return {"load + render + inline, CPU ms": median(run, 30), "of which load": load}


def measure_year() -> dict[str, float]:
    from newsletter.build import build_issue, write_build
    from newsletter.checks import check_issue
    from newsletter.config import load_config
    from newsletter.content.issue import issue_paths
    from newsletter.rendering.render import load_templates

    with tempfile.TemporaryDirectory() as folder:
        config = load_config(workspace(Path(folder), issues=52, stories=10), {})
        begun, cpu = time.perf_counter(), time.process_time()
        templates = load_templates(config)
        for path in issue_paths(config.issues):
            checked = check_issue(path, config, templates=templates)
            assert checked.issue is not None
            assert checked.ok, [str(finding) for finding in checked.findings]
            write_build(build_issue(checked.issue, checked.editions, config), Path(folder, "build", path.stem))
        return {"wall ms": (time.perf_counter() - begun) * 1000, "CPU ms": (time.process_time() - cpu) * 1000}


def measure_large() -> dict[str, float]:
    from newsletter.config import load_config
    from newsletter.content.format import format_issue
    from newsletter.content.issue import issue_paths, load_issue

    with tempfile.TemporaryDirectory() as folder:
        config = load_config(workspace(Path(folder), issues=1, stories=200), {})
        path = issue_paths(config.issues)[0]
        text = path.read_text("utf-8")
        return {
            "load, CPU ms": median(lambda: load_issue(path, config), 5),
            "format, CPU ms": median(lambda: format_issue(text, path, config), 5),
        }


MEASUREMENTS = {
    "help": ("`newsletter --help`", measure_help),
    "issue": ("one issue, ten stories, one language, warm", measure_issue),
    "build": ("cold `newsletter build`, ten stories, two languages", measure_build),
    "year": ("52 issues of ten stories checked and built in one process", measure_year),
    "large": ("an issue of 200 stories in two languages", measure_large),
}


def main() -> None:
    names = sys.argv[1:]
    if "--inside" in names:
        numbers = MEASUREMENTS[names[0]][1]()
        who = resource.RUSAGE_CHILDREN if names[0] in ("help", "build") else resource.RUSAGE_SELF
        numbers["peak MB"] = resource.getrusage(who).ru_maxrss / 1024
        print(json.dumps(numbers))
        return
    for name in names or MEASUREMENTS:
        command = [sys.executable, __file__, name, "--inside"]
        result = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        numbers = json.loads(result.stdout)
        print(f"{MEASUREMENTS[name][0]:<60}", ", ".join(f"{key} {value:,.1f}" for key, value in numbers.items()))


if __name__ == "__main__":
    main()
