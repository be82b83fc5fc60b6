"""Amazon SES: whole messages of ours, as SMTP would carry them, through boto3.

anymail would let Django write the message, and Django may write a long List-Unsubscribe as encoded-words. So only the
envelope's own octets leave here (SES v2 `SendEmail`, content `Raw`). boto3 signs the requests and reads the answers;
the connections are those of every other service, with their deadline.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import requests
from botocore.awsrequest import AWSResponse
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError
from requests.structures import CaseInsensitiveDict

from newsletter.config import Anymail
from newsletter.errors import ConfigError, Finding, ProviderDown, ProviderRejected
from newsletter.providers.anymail_answers import Secrets, Verdict
from newsletter.providers.anymail_lane import Line, Lost, Unreached, Watch
from newsletter.providers.anymail_letter import Addressee
from newsletter.providers.anymail_services import Service
from newsletter.recorder import Outcome

_here = threading.local()  # the line on which this thread sends, and its gate


def ses_client(config: Anymail, url: str) -> Any:
    """A client that all threads share; it is slow to make. Nothing is tried twice.

    Raises `ConfigError` without a region, or without credentials that boto3 could find anywhere.
    """
    given = {"aws_access_key_id": config.key, "aws_secret_access_key": config.secret} if config.key else {}
    session = boto3.session.Session(**given, region_name=config.region or None)
    problem = help = ""
    if not session.region_name:
        problem, help = "Amazon SES needs a region", "set `region`, such as eu-west-1"
    elif not config.key and session.get_credentials() is None:
        problem, help = "Amazon SES has no credentials", "set NEWSLETTER_ANYMAIL_KEY and NEWSLETTER_ANYMAIL_SECRET"
    if problem:
        raise ConfigError(
            [Finding(code="config.value", severity="error", where=None, message=f"anymail: {problem}", help=help)]
        )
    settings = BotoConfig(
        retries={"total_max_attempts": 1, "mode": "standard"}, user_agent_extra="newsletter", parameter_validation=False
    )
    client = session.client("sesv2", endpoint_url=url or None, config=settings)
    client.meta.events.register("before-send.sesv2", _sent)  # what it returns is the answer
    return client


def _sent(request: Any, **_: Any) -> AWSResponse:
    headers = {name: _text(value) for name, value in request.headers.items()}
    plain = requests.PreparedRequest()  # it is prepared: it was signed
    plain.method, plain.url, plain.body = request.method, request.url, request.body
    plain.headers = CaseInsensitiveDict(headers)
    answer = _here.line.exchange(plain, _here.gate)
    return AWSResponse(request.url, answer.status_code, answer.headers, _Read(answer.content))


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


class _Read:
    """A body that is in memory, as botocore reads one."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._body


class SesLine:
    """Sends one message at a time."""

    def __init__(self, client: Any, service: Service, *, timeout: float, watch: Watch) -> None:
        self._client, self._service = client, service
        self._line = Line(client.meta.endpoint_url, None, timeout=timeout, watch=watch)

    def send(self, to: Addressee, secrets: Secrets, gate: Callable[[], None]) -> list[Outcome] | Verdict:
        """The outcome, or a verdict on the recipient. Raises `ProviderDown` and `ProviderRejected`, and what the gate
        raises, right before the message leaves."""
        _here.line, _here.gate = self._line, gate
        try:
            answer = self._client.send_email(
                Destination={"ToAddresses": [to.address]},
                Content={"Raw": {"Data": b"".join(to.pieces)}},
                EmailTags=[{"Name": "d", "Value": to.key}],
            )
        except Unreached as error:
            raise ProviderDown(f"Amazon SES cannot be reached: {error}; tried again later") from None
        except Lost as error:
            return [Outcome(key=to.key, state="in_doubt", detail=f"Amazon SES: {error}")]
        except ClientError as error:
            return _judged(error, to, secrets)
        except (BotoCoreError, ValueError, TypeError, AttributeError, RecursionError) as error:
            if "Credential" in type(error).__name__ or "Token" in type(error).__name__:  # nothing was signed
                why = f"Amazon SES: no credentials ({type(error).__name__}); set them, then resume"
                raise ProviderRejected(why) from None
            return [Outcome(key=to.key, state="in_doubt", detail=_UNREADABLE)]
        id = answer.get("MessageId") if isinstance(answer, dict) else None
        if not isinstance(id, str) or not id.isprintable() or not 0 < len(id) < 200:
            return [Outcome(key=to.key, state="in_doubt", detail=_UNREADABLE)]
        return [Outcome(key=to.key, state="accepted", provider_ref=id)]

    def close(self) -> None:
        self._line.close()


_UNREADABLE = "Amazon SES gave an answer that cannot be read, so nobody knows"
_TOO_FAST = ("TooManyRequestsException", "ThrottlingException", "Throttling")
_MESSAGE = ("MessageRejected", "BadRequestException", "ValidationException", "InvalidParameterValue")
_OURS = re.compile(r"not verified|identity|quota|paused|suspend|from|sender|domain|size|credential", re.IGNORECASE)


def _judged(error: ClientError, to: Addressee, secrets: Secrets) -> list[Outcome] | Verdict:
    """docs.aws.amazon.com, SES API v2, SendEmail, "Errors"."""
    answer: Any = error.response
    told: Any = answer.get("Error") or {}
    status = (answer.get("ResponseMetadata") or {}).get("HTTPStatusCode", 0)
    code = str(told.get("Code", ""))
    said = secrets.words(f"{code}: {told.get('Message', '')}")
    detail = f"Amazon SES says {status} {said}"
    if (code in _TOO_FAST or status == 429) and not re.search(r"quota|daily", said, re.IGNORECASE):
        raise ProviderDown(f"{detail}; tried again later", retry_after=1.0)
    if not isinstance(status, int) or status >= 500 or status < 300:
        return [Outcome(key=to.key, state="in_doubt", detail=detail)]
    if code in _MESSAGE and not _OURS.search(said):
        return Verdict("refused", detail)
    raise ProviderRejected(f"{detail}; mend that, then resume")
