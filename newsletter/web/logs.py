"""What a server process says of failures: a line or two on stderr, never an address or a token."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

DEEPEST = 12  # places of a failure that are told, from the innermost


def to_stderr() -> None:
    """What goes wrong on the pages, a line each. Other loggers stay silent: what Django and granian say of a failure
    holds addresses with tokens in them."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Bare("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("newsletter.web")
    log.addHandler(handler)
    log.propagate = False
    logging.getLogger().addHandler(logging.NullHandler())


class _Bare(logging.Formatter):
    """A failure with the places it went through, without its words: a database's hold addresses."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - its name there
        kind, _, trace = ei
        places = []
        while trace is not None:
            code = trace.tb_frame.f_code
            places.append(f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}")
            trace = trace.tb_next
        return f"  {kind.__name__} at {' < '.join(reversed(places[-DEEPEST:]))}"
