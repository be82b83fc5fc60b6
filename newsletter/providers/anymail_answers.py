"""What a service's answer means for those whom the request was for.

The rule behind all of it: whatever is not clearly a refusal or an acceptance leaves a doubt, and a doubt is never sent
again by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

from newsletter.providers.anymail_letter import Addressee
from newsletter.providers.anymail_services import Service
from newsletter.recorder import Outcome, State

LONGEST_WAIT = 3600.0  # seconds that a service may make us wait
_LONGEST_DETAIL = 300

What = Literal["taken", "refused", "rejected", "down", "deferred", "in_doubt"]


class Verdict(NamedTuple):
    """On a request as a whole. refused: for something about a recipient, or for reasons that are not clear; nobody was
    served · rejected: a human must act · down: later · deferred: later, for this request alone."""

    what: What
    detail: str = ""
    retry_after: float | None = None


class Secrets:
    """Takes out of a service's words what must not be seen: addresses, keys, line ends."""

    def __init__(self, *keys: str) -> None:
        self._keys = [key for key in keys if key]

    def words(self, text: str) -> str:
        text = text[:20_000]
        for key in self._keys:
            text = text.replace(key, "…")
        text = _ADDRESS.sub("…", "".join(sign if sign.isprintable() else " " for sign in text[:2000]))
        text = " ".join(text.split())
        return text if len(text) <= _LONGEST_DETAIL else f"{text[: _LONGEST_DETAIL - 1]}…"


_ADDRESS = re.compile(r"[^\s<>\"'`(),:;\[\]]*(?:@|%40|\\u0040|&#0*64;|&#x0*40;)[^\s<>\"'`(),;]*")


# --- the request as a whole -------------------------------------------------------------------------------------------


def judge(service: Service, answer: Any, secrets: Secrets, *, alone: bool) -> Verdict:
    """What an HTTP answer means, before it is asked about single recipients. Trusts nothing in it.

    `alone`: the request was for one recipient, so that what is wrong with it is not its size in recipients.
    """
    status = int(answer.status_code)
    if service.module == "mailgun" and b"Mailgun Magnificent API" in answer.content[:1000]:
        return Verdict(
            "rejected", "Mailgun does not know this address of its API: look at `domain`, `region` and `url`"
        )
    if 200 <= status < 300 and service.module not in ("postal", "mandrill"):
        return Verdict("taken")
    document = _document(answer)
    said = secrets.words(_said(document) or (answer.text if len(answer.content) < 2000 else "") or str(answer.reason))
    detail = f"{service.title} says {status}: {said}" if said else f"{service.title} says {status}"
    if service.module == "postal" and isinstance(document, dict) and document.get("status") not in (None, "success"):
        return _postal(document, f"{service.title} says {secrets.words(_said(document))}")
    if service.module == "mandrill" and isinstance(document, dict) and document.get("status") == "error":
        return _mandrill(document, detail)
    if 200 <= status < 300:
        return Verdict("taken")
    if service.module == "mailjet" and isinstance(document, dict) and isinstance(document.get("Messages"), list):
        return Verdict("taken")  # each message has an answer of its own
    if status == 429:
        if _QUOTA.search(said):
            return Verdict("rejected", detail)
        return Verdict("down", detail, retry_after(answer.headers))
    if status == 409:  # an idempotency key under which something is under way, or was sent with another content
        return Verdict("in_doubt", detail)
    if status == 408:  # the request did not arrive whole (RFC 9110 §15.5.9)
        return Verdict("deferred", detail)
    if status in (401, 402, 403, 404, 405, 407, 410) or 300 <= status < 400:
        return Verdict("rejected", detail)
    if status == 413 and alone:
        return Verdict("rejected", detail)
    if status in (400, 413, 422):
        return _refusal(service, document, said, detail)
    if 400 <= status < 500:
        return Verdict("rejected", detail)
    return Verdict("in_doubt", detail)


def _refusal(service: Service, document: Any, said: str, detail: str) -> Verdict:
    """A request that the service would not have: is it the recipient, or something that is wrong for everybody?"""
    if service.module == "postmark" and isinstance(document, dict):
        code = document.get("ErrorCode")
        if code not in (300, 406):  # 300 is about an address, 406 about one that bounced before; no other is
            return Verdict("rejected", detail)
    if _ABOUT_RECIPIENT.search(said):
        return Verdict("refused", detail)
    if _QUOTA.search(said) or _ABOUT_SENDER.search(said):
        return Verdict("rejected", detail)
    return Verdict("refused", detail)


_ABOUT_RECIPIENT = re.compile(
    r"""['"`]to['"`]|\bto\[|\bto\ (?:parameter|field|address|email)|\bin\ to\b|\brecipients?\b|\brcpt\b|header_to"""
    r"""|\bto\.\d|inactive\ address""",
    re.IGNORECASE | re.VERBOSE,
)
_ABOUT_SENDER = re.compile(
    r"\bfrom\b|\bfrom_|\bsender|\bsending domain|\bdomain|reply[-_ ]?to|verif|api[-_ ]?key|token|authori[sz]|credential"
    r"|permission|suspend|disabled|\baccount\b|\bheaders?\b|template|subaccount|stream",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    r"quota|credits?\b|billing|payment|\bplan\b|daily|monthly|limit (?:is )?(?:exceeded|reached)", re.IGNORECASE
)


def _postal(document: Mapping[str, Any], detail: str) -> Verdict:
    # docs.postalserver.io: answers are always 200, with a status and a code.
    data = document.get("data")
    code = str(data.get("code", "")) if isinstance(data, dict) else ""
    if code in ("NoRecipients", "ValidationError") or (not code and _ABOUT_RECIPIENT.search(detail)):
        return Verdict("refused", detail)
    if document.get("status") in ("error", "parameter-error"):
        return Verdict("rejected", detail)
    return Verdict("in_doubt", detail)


def _mandrill(document: Mapping[str, Any], detail: str) -> Verdict:
    # mailchimp.com/developer/transactional: errors have a name, and most come as 500.
    name = str(document.get("name", ""))
    if name == "ValidationError":
        return Verdict("refused" if not _ABOUT_SENDER.search(detail) else "rejected", detail)
    if name in ("", "GeneralError", "ServiceUnavailable"):
        return Verdict("in_doubt", detail)
    return Verdict("rejected", detail)  # Invalid_Key, PaymentRequired, Unknown_Subaccount …


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, as the headers of a 429 tell them: a number or a date; None when they do not."""
    for name in ("retry-after", "ratelimit-reset", "x-sib-ratelimit-reset", "x-ratelimit-reset"):
        value = str(headers.get(name) or "").strip()
        if re.fullmatch(r"[0-9]{1,10}(?:\.[0-9]{1,6})?", value):
            wait = float(value)
            if wait > 1e9:  # a point in time
                wait -= datetime.now(UTC).timestamp()
        elif name == "retry-after" and value:
            try:
                wait = (parsedate_to_datetime(value[:64]) - datetime.now(UTC)).total_seconds()
            except (ValueError, TypeError, OverflowError):
                continue
        else:
            continue
        return min(max(wait, 1.0), LONGEST_WAIT)
    return None


def _document(answer: Any) -> Any:
    try:
        return json.loads(answer.content)
    except (ValueError, RecursionError):
        return None


_WORDS = (
    "message",
    "Message",
    "description",
    "ErrorMessage",
    "error",
    "error_message",
    "detail",
    "name",
    "code",
    "Code",
)


def _said(document: Any, depth: int = 0) -> str:
    """What an error document says, whatever its shape: the strings under the usual names, and in lists of errors."""
    if isinstance(document, str):
        return document
    if isinstance(document, int | float | bool) or document is None or depth > 4:
        return ""
    found: list[str] = []
    if isinstance(document, list):
        found = [_said(each, depth + 1) for each in document[:5]]
    elif isinstance(document, dict):
        for name in _WORDS:
            value = document.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool):
                found.append(str(value))
            elif isinstance(value, dict | list):
                found.append(_said(value, depth + 1))
        for name in ("errors", "Errors", "details", "data", "ErrorRelatedTo", "fields"):
            value = document.get(name)
            if isinstance(value, dict):
                found += [f"{key}: {_said(each, depth + 1)}" for key, each in list(value.items())[:5]]
            elif value:
                found.append(_said(value, depth + 1))
    return " ".join(dict.fromkeys(part for part in found if part))


# --- single recipients ------------------------------------------------------------------------------------------------


def outcomes(
    service: Service, to: Sequence[Addressee], answer: Any, *, backend: Any, payload: Any, secrets: Secrets
) -> list[Outcome]:
    """One outcome for each recipient of a request that was answered with a success. Never raises."""
    if service.module == "mailjet":
        found = _mailjet(answer, to, secrets)
        if found is not None:
            return found
    try:
        if not answer.content and service.module != "mailersend":
            raise ValueError("an empty answer")
        backend.raise_for_status(answer, payload, payload.message)
        statuses = backend.parse_recipient_status(answer, payload, payload.message)
        by_address = {str(address).casefold(): status for address, status in statuses.items()}
    except Exception:  # whatever a parser meets in an answer that is none
        detail = f"{service.title} gave an answer that cannot be read, so nobody knows"
        return [Outcome(key=each.key, state="in_doubt", detail=detail) for each in to]
    if service.batch == 1 and len(by_address) == 1:  # however the address is spelled there
        by_address = {to[0].address.casefold(): next(iter(by_address.values()))}
    return [_outcome(service, each, by_address.get(each.address.casefold()), int(answer.status_code)) for each in to]


_STATES: Mapping[str | None, State] = {
    "sent": "accepted",
    "queued": "accepted",
    "invalid": "refused",
    "rejected": "refused",
}


_FAILED: Mapping[str, State] = {"unisender_go": "deferred", "mailersend": "in_doubt"}


def _outcome(service: Service, to: Addressee, status: Any, code: int) -> Outcome:
    word = getattr(status, "status", None)
    state = _STATES.get(word, "in_doubt")
    if word == "failed":  # Unisender Go says so of an address that cannot be reached for the moment; anymail makes it
        # up where MailerSend's answer names no id.
        state = _FAILED.get(service.module, "refused")
    elif word in ("unknown", None) and code == 422:
        state = "refused"  # Postmark: nothing was sent
    if state == "accepted":
        return Outcome(key=to.key, state=state, provider_ref=_reference(getattr(status, "message_id", ""), to))
    said = "did not say what became of it" if state == "in_doubt" else f"says {word or 'no'}"
    return Outcome(key=to.key, state=state, detail=f"{service.title} {said}")


def _reference(id: object, to: Addressee) -> str:
    if not isinstance(id, str | int):
        return ""
    text = str(id)
    if len(text) > 200 or not text.isprintable() or to.address.casefold() in text.casefold():
        return ""
    return text


def _mailjet(answer: Any, to: Sequence[Addressee], secrets: Secrets) -> list[Outcome] | None:
    """Mailjet answers for each message, in their order; anymail tells only who was served. None: not so."""
    document = _document(answer)
    messages = document.get("Messages") if isinstance(document, dict) else None
    if not isinstance(messages, list) or len(messages) != len(to):
        return None
    found = []
    for each, message in zip(to, messages, strict=True):
        if not isinstance(message, dict):
            return None
        if message.get("Status") == "success":
            served = message.get("To")
            id = (
                served[0].get("MessageID")
                if isinstance(served, list) and served and isinstance(served[0], dict)
                else ""
            )
            found.append(Outcome(key=each.key, state="accepted", provider_ref=_reference(id, each)))
        elif message.get("Status") == "error":
            detail = f"Mailjet says {secrets.words(_said(message)) or 'no'}"
            found.append(Outcome(key=each.key, state="refused", detail=detail))
        else:
            found.append(Outcome(key=each.key, state="in_doubt", detail="Mailjet did not say what became of it"))
    return found


def rejection(service: Service, found: Sequence[Outcome]) -> str:
    """Why a human must act: a service that answers for each message refused them all for what is in all of them."""
    if service.module != "mailjet" or not found or any(each.state != "refused" for each in found):
        return ""
    said = found[0].detail
    related = re.search(r"\b(?:From|Sender|Subject|Headers|TextPart|HTMLPart|ReplyTo)\b", said)
    about = (_ABOUT_SENDER.search(said) or _QUOTA.search(said) or related) and not re.search(r"\bTo\b", said)
    return said if about and all(each.detail == said for each in found) else ""
