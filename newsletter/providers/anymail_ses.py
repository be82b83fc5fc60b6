"""Amazon SES: whole messages of ours, as SMTP would carry them, through boto3.

anymail would let Django write the message, and Django may write a long List-Unsubscribe as encoded-words. So only the
envelope's own octets leave here (SES v2 `SendEmail`, content `Raw`).
"""

from __future__ import annotations

import re
from typing import Any

from newsletter.config import Anymail
from newsletter.errors import ConfigError, Finding, ProviderDown, ProviderRejected
from newsletter.providers.anymail_answers import Secrets, Verdict
from newsletter.providers.anymail_lane import cause
from newsletter.providers.anymail_letter import Addressee, Letter
from newsletter.providers.anymail_services import Service
from newsletter.recorder import Outcome

try:
    import boto3
    from botocore import exceptions as boto
    from botocore.config import Config as BotoConfig
except ImportError as error:
    message, help = "Amazon SES needs a package that is not installed", "pip install 'newsletter[ses]'"
    raise ConfigError(
        [Finding(code="config.package", severity="error", where=None, message=message, help=help)]
    ) from error


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
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=min(15, config.timeout),
        read_timeout=config.timeout,
        max_pool_connections=config.connections,
        user_agent_extra="newsletter",
        tcp_keepalive=True,
    )
    return session.client("sesv2", endpoint_url=url or None, config=settings)


class SesLine:
    """Sends one message at a time."""

    def __init__(self, client: Any, service: Service, *, timeout: float) -> None:
        self._client, self._service, self._timeout = client, service, timeout

    def post(self, letter: Letter, to: Addressee, secrets: Secrets) -> list[Outcome] | Verdict:
        """The outcome, or a verdict on the recipient. Raises `ProviderDown` and `ProviderRejected`."""
        try:
            answer = self._client.send_email(
                Destination={"ToAddresses": [to.address]},
                Content={"Raw": {"Data": b"".join(to.pieces)}},
                EmailTags=[{"Name": "d", "Value": to.key}],
            )
        except boto.ClientError as error:
            return _judged(error, to, secrets)
        except (
            boto.EndpointConnectionError,
            boto.ConnectTimeoutError,
            boto.SSLError,
            boto.ProxyConnectionError,
        ) as error:
            raise ProviderDown(f"Amazon SES cannot be reached: {cause(error)}; tried again later") from None
        except (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.CredentialRetrievalError,
            boto.TokenRetrievalError,
        ) as error:
            raise ProviderRejected(
                f"Amazon SES: no credentials ({type(error).__name__}); set them, then resume"
            ) from None
        except (boto.BotoCoreError, OSError, ValueError, RecursionError) as error:
            timed_out = isinstance(error, boto.ReadTimeoutError)
            reason = f"no answer within {self._timeout:g} s" if timed_out else cause(error)
            return [Outcome(key=to.key, state="in_doubt", detail=f"Amazon SES: {reason}")]
        id = answer.get("MessageId") if isinstance(answer, dict) else None
        if not isinstance(id, str) or not id:
            return [Outcome(key=to.key, state="in_doubt", detail="Amazon SES gave an answer that cannot be read")]
        return [Outcome(key=to.key, state="accepted", provider_ref=id if id.isprintable() and len(id) < 200 else "")]

    def close(self) -> None:
        """The client is everybody's."""


_TOO_FAST = ("TooManyRequestsException", "ThrottlingException", "Throttling")
_MESSAGE = ("MessageRejected", "BadRequestException", "ValidationException", "InvalidParameterValue")


def _judged(error: Any, to: Addressee, secrets: Secrets) -> list[Outcome] | Verdict:
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
    about_sender = re.search(r"not verified|identity|quota|paused|suspend|from|sender|domain|size", said, re.IGNORECASE)
    if code in _MESSAGE and not about_sender:
        return Verdict("refused", detail)
    raise ProviderRejected(f"{detail}; mend that, then resume")
