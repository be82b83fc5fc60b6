"""What SendGrid's answers mean (https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors).

202                          taken; the id of the request is X-Message-Id
400, 413                     nothing of the request was sent, for what is in it
401, 403, other 4xx          a human must act
408, 429, 503 with errors    said clearly: nothing was taken, try again later
everything else              nobody knows. Also 200, which is for requests in sandbox mode: whoever gives it to a
                             request that is none is not SendGrid, or does not do what was asked
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from newsletter.errors import ProviderDown, ProviderError, ProviderRejected, ProviderUnsure
from newsletter.providers.sendgrid_wire import Answer
from newsletter.providers.smtp_wire import shown


class Taken(NamedTuple):
    reference: str  # with which the ids in SendGrid's events begin


class Refused(NamedTuple):
    said: str  # status and complaints, on one line, without addresses
    named: dict[int, str]  # the personalizations that are complained of, and how
    itself: bool  # something else than the personalizations is complained of: sender, content


def meaning(answer: Answer, *, key: str, now: float) -> Taken | Refused | ProviderError:
    """What became of a request, in an exception (to be raised) where it is about more than what is in it."""
    status = answer.status
    if status == 202:
        reference = answer.headers.get("x-message-id", "").strip()
        return Taken(reference if _ID.fullmatch(reference) else "")
    found = _complaints(answer, key)
    said = f"{status}: {_said(found)}"
    match status:
        case 400 | 413:
            itself = any(each.field and not each.field.startswith("personalizations") for each in found)
            return Refused(said, _named(found), itself)
        case 401:
            step = "make a key with the permission Mail Send; if the credits are used up, look at the plan"
            return ProviderRejected(f"SendGrid does not take the key ({said}); {step}")
        case 403:
            step = "give the key the permission Mail Send, and authenticate the sender's domain"
            return ProviderRejected(f"SendGrid forbids it ({said}); {step}")
        case 408:
            return ProviderDown(f"SendGrid did not get the request in time ({said})")
        case 429:
            wait = _retry_after(answer.headers, now)
            return ProviderDown(f"SendGrid wants fewer requests ({said})", retry_after=wait)
        case 503 if found:
            wait = _retry_after(answer.headers, now)
            return ProviderDown(f"SendGrid takes no mail at the moment ({said})", retry_after=wait)
        case _ if 400 <= status < 500:
            step = "look at sendgrid.region, and whether a proxy stands between"
            return ProviderRejected(f"SendGrid does not know such a request ({said}); {step}")
        case _:
            return ProviderUnsure(f"SendGrid answered {status}, which says neither that it took the request nor not")


_ID = re.compile(r"[A-Za-z0-9_.=-]{1,100}")


class _Complaint(NamedTuple):
    field: str  # the path in the request, or ""
    words: str  # fit to be kept


def _complaints(answer: Answer, key: str) -> list[_Complaint]:
    """The `errors` of an answer's body; none when it has no such list."""
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        return []
    errors = body.get("errors") if isinstance(body, dict) else None
    return [
        _Complaint(_text(each.get("field")), _words(_text(each.get("message")), key))
        for each in (errors if isinstance(errors, list) else [])
        if isinstance(each, dict)
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


_LINK = re.compile(r"\b(?:https?://|mailto:)[^\s<>\"']*", re.IGNORECASE)


def _words(text: str, key: str) -> str:
    """A server's words on one line, without addresses, links (they hold tokens) and the key."""
    return shown(_LINK.sub("<link>", text[:2000].replace(key, "<key>")))[:200]


def _said(found: list[_Complaint]) -> str:
    """All complaints in one line."""
    words = [f"{each.field}: {each.words}" if _FIELD.fullmatch(each.field) else each.words for each in found[:3]]
    return "; ".join(word for word in words if word) or "no reason given"


_FIELD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,80}")
_PLACE = re.compile(r"personalizations[.\[]([0-9]{1,4})(?![0-9])", re.ASCII)


def _named(found: list[_Complaint]) -> dict[int, str]:
    named: dict[int, str] = {}
    for field, words in found:
        if match := _PLACE.match(field):
            named.setdefault(int(match[1]), words or "no reason given")
    return named


_SECONDS = re.compile(r"\s*([0-9]{1,12})(?:\.[0-9]{1,9})?\s*", re.ASCII)
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT", re.ASCII)
LONGEST = 3600.0  # seconds for which a server may keep us from trying again
_EPOCH = 1_000_000_000  # a smaller number is no time of day but a number of seconds


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, between 1 and `LONGEST`: by X-RateLimit-Reset (a Unix time), else by Retry-After (a number of
    seconds or a date, RFC 9110 §10.2.3). None where neither says."""
    for name in ("x-ratelimit-reset", "retry-after"):
        value = headers.get(name, "")
        if match := _SECONDS.fullmatch(value):
            number = float(match[1])
            wait = number - now if number >= _EPOCH else number
        elif name == "retry-after" and _DATE.fullmatch(value):
            try:
                wait = parsedate_to_datetime(value).timestamp() - now
            except (ValueError, OverflowError):
                continue
        else:
            continue
        return min(LONGEST, max(1.0, wait))
    return None
