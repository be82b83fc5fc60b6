"""Whether a text stands anywhere in a file, looked for in a process of its own.

Of its own, since whoever closes an SQLite file loses the locks that other connections of the same process hold on it
(sqlite.org/howtocorrupt.html, §2.2). That process reads this file and nothing else of ours.
"""

from __future__ import annotations

import json
import mmap
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def holds(path: Path, forms: Iterable[str]) -> bool:
    """Whether one of the texts stands in the file, in any casing, as it is or as JSON writes it. About a second for
    500 MB. Other texts that end like it are found as well. Raises `OSError` for a file that cannot be read."""
    asked = json.dumps({"path": str(path.absolute()), "forms": sorted(forms)})
    command = [sys.executable, "-I", "-S", __file__]  # the texts are not in it: others can see it
    answer = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if answer.returncode or answer.stdout not in ("True", "False"):
        raise OSError(f"{path} could not be searched: {answer.stderr.strip().rpartition(chr(10))[2]}")
    return answer.stdout == "True"


def _found(path: Path, forms: Iterable[str]) -> bool:
    written = [each.encode() for form in forms for each in {form, json.dumps(form)[1:-1]}]
    pattern = re.compile(b"|".join(re.escape(each) for each in written), re.IGNORECASE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return pattern.search(content) is not None


if __name__ == "__main__":
    question = json.load(sys.stdin)
    sys.stdout.write(str(_found(Path(question["path"]), question["forms"])))
