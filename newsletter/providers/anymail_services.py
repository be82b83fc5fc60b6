"""The services that the anymail provider knows: what each can do, and how it spells what differs between recipients.

Facts only. They were read in django-anymail 15.2 and in the services' own documentation of 2026; none was tried with an
account. docs/anymail.md tells them to people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Merge:
    """How a service is told to put a recipient's value into a text that it takes once for all."""

    text: str  # the placeholder in a text part, `%s` being the variable's name
    html: str  # the same in an HTML part: it must put the value there as it is, since we have escaped it
    # Runs of characters that the syntax is made of, and those of them that would begin a placeholder. An edition's own
    # text that holds one is sent as the value of a variable, since a value is not looked at again.
    runs: re.Pattern[str]
    opening: re.Pattern[str]
    subject: bool = True  # the subject is read as a template, too


@dataclass(frozen=True, kw_only=True)
class Service:
    """One mail service."""

    title: str
    module: str  # in anymail.backends
    payload: str = ""  # the class of that module that builds requests
    key: str = "api_key"  # the backend's option for the key
    secret: str = ""  # the backend's option for the second key
    secret_is: str = ""  # what people call it
    urls: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # by region, "" for none
    url_is_own: bool = False  # everybody has an API of their own: `url` is needed
    batch: int = 1  # recipients in one request
    merge: Merge | None = None
    # Where a batch's headers go. apart: those of all in one place, a recipient's beside him · whole: a recipient's
    # replace those of all, so he gets both · unsubscribe: nothing but List-Unsubscribe can differ.
    headers: Literal["apart", "whole", "unsubscribe"] = "apart"
    tracking: bool = False  # a request can say that opens and clicks are not to be tracked
    metadata: bool = True  # a request can carry the delivery's key for the service's reports
    images: bool = True  # a message can carry pictures inside
    # What makes a repeated request harmless. http: the header Idempotency-Key · brevo: an entry of "headers".
    once: Literal["", "http", "brevo"] = ""
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # of every request
    bulk: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # of an issue's requests


_CURLY = re.compile(r"[{}]+")
_CURLY_OPENING = re.compile(r"\{\{")
_TAGS = re.compile(r"[{}%#$]+")  # Jinja, Django, Twig
_TAGS_OPENING = re.compile(r"\{[{%#$]")
_PERCENT = re.compile(r"%(?:recipient|[a-z_]*unsubscribe|mailing_list|sender|tag)[A-Za-z0-9_.:-]*%")

SERVICES: Mapping[str, Service] = MappingProxyType(
    {
        # documentation.mailgun.com, "Batch Sending": 1,000 recipients; %recipient.NAME% anywhere; values as they are.
        "mailgun": Service(
            title="Mailgun",
            module="mailgun",
            payload="MailgunPayload",
            urls={
                "": "https://api.mailgun.net/v3",
                "us": "https://api.mailgun.net/v3",
                "eu": "https://api.eu.mailgun.net/v3",
            },
            batch=1000,
            merge=Merge(text="%%recipient.%s%%", html="%%recipient.%s%%", runs=_PERCENT, opening=_PERCENT),
            tracking=True,
        ),
        "ses": Service(title="Amazon SES", module="amazon_ses", secret="secret", secret_is="secret access key"),  # noqa: S106
        "postmark": Service(
            title="Postmark",
            module="postmark",
            payload="PostmarkPayload",
            key="server_token",
            urls={"": "https://api.postmarkapp.com/"},
            tracking=True,
            bulk={"MessageStream": "broadcast"},  # bulk mail must not go through the transactional stream
        ),
        # developers.brevo.com, "Batch send transactional emails": 1,000 versions. help.brevo.com 360018252080: values
        # are escaped unless autoescape is off. "Idempotency for batch emails": idempotencyKey, a UUID, for 30 minutes.
        "brevo": Service(
            title="Brevo",
            module="brevo",
            payload="BrevoPayload",
            urls={"": "https://api.brevo.com/v3/"},
            batch=1000,
            merge=Merge(
                text="{%% autoescape off %%}{{ params.%s }}{%% endautoescape %%}",
                html="{%% autoescape off %%}{{ params.%s }}{%% endautoescape %%}",
                runs=_TAGS,
                opening=_TAGS_OPENING,
            ),
            headers="whole",
            images=False,
            once="brevo",
        ),
        "resend": Service(
            title="Resend",
            module="resend",
            payload="ResendPayload",
            urls={"": "https://api.resend.com/"},
            once="http",  # resend.com/docs/dashboard/emails/idempotency-keys: for 24 hours
        ),
        # dev.mailjet.com, "Send API v3.1": 50 messages. "Personalisation": [[var:NAME]] in the two parts, nowhere else.
        "mailjet": Service(
            title="Mailjet",
            module="mailjet",
            payload="MailjetPayload",
            secret="secret_key",  # noqa: S106
            secret_is="secret key",  # noqa: S106
            urls={"": "https://api.mailjet.com/v3.1/", "us": "https://api.us.mailjet.com/v3.1/"},
            batch=50,
            merge=Merge(
                text="[[var:%s]]",
                html="[[var:%s]]",
                runs=re.compile(r"[\[\]]+"),
                opening=re.compile(r"\[\["),
                subject=False,
            ),
            headers="whole",
            tracking=True,
        ),
        "mailersend": Service(
            title="MailerSend",
            module="mailersend",
            payload="MailerSendPayload",
            key="api_token",
            urls={"": "https://api.mailersend.com/v1/"},
            merge=Merge(text="{{ %s }}", html="{{ %s }}", runs=_TAGS, opening=_TAGS_OPENING),
            tracking=True,
            metadata=False,
        ),
        # developers.sparkpost.com, "Template Language": {{{NAME}}} is not escaped, in HTML, in text or in a link.
        # Idempotency-Key for 24 hours: pull request 590 of SparkPost/developers.sparkpost.com, August 2026.
        "sparkpost": Service(
            title="SparkPost",
            module="sparkpost",
            payload="SparkPostPayload",
            urls={
                "": "https://api.sparkpost.com/api/v1/",
                "us": "https://api.sparkpost.com/api/v1/",
                "eu": "https://api.eu.sparkpost.com/api/v1/",
            },
            batch=1000,
            merge=Merge(
                text="{{{%s}}}",
                html="{{{%s}}}",
                runs=re.compile(r"[{}\[\]]+"),
                opening=re.compile(r"\{\{|\[\[|\]\]"),
            ),
            tracking=True,
            once="http",
        ),
        "mandrill": Service(
            title="Mandrill",
            module="mandrill",
            payload="MandrillPayload",
            urls={"": "https://mandrillapp.com/api/1.0/"},
            tracking=True,
            extra={  # an edition's text is sent as it stands
                "message": {
                    "merge": False,
                    "auto_text": False,
                    "auto_html": False,
                    "inline_css": False,
                    "url_strip_qs": False,
                    "view_content_link": False,
                }
            },
        ),
        "postal": Service(
            title="Postal", module="postal", payload="PostalPayload", url_is_own=True, metadata=False, images=False
        ),
        "scaleway": Service(
            title="Scaleway",
            module="scaleway",
            payload="ScalewayPayload",
            key="secret_key",
            secret="project_id",  # noqa: S106
            secret_is="project id",  # noqa: S106
            urls={
                region: f"https://api.scaleway.com/transactional-email/v1alpha1/regions/{region or 'fr-par'}/"
                for region in ("", "fr-par")
            },
            images=False,
        ),
        # godocs.unisender.ru/web-api-ref#email-send: 500 recipients, {{NAME}} in both parts, values as they are; of the
        # headers only List-Unsubscribe may differ. An account is on one of two servers.
        "unisender": Service(
            title="Unisender Go",
            module="unisender_go",
            payload="UnisenderGoPayload",
            urls={
                region: f"https://{region or 'go1'}.unisender.ru/ru/transactional/api/v1/"
                for region in ("", "go1", "go2")
            },
            batch=500,
            merge=Merge(text="{{%s}}", html="{{%s}}", runs=_CURLY, opening=_CURLY_OPENING),
            headers="unsubscribe",
            tracking=True,
            extra={"template_engine": "simple"},
        ),
        "mailtrap": Service(
            title="Mailtrap",
            module="mailtrap",
            payload="MailtrapPayload",
            key="api_token",
            urls={"": "https://send.api.mailtrap.io/api/"},
        ),
    }
)
