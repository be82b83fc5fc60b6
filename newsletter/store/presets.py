"""What the columns of other people's files mean: names in many languages, and the exports of other newsletter systems.

All of it is data. A preset is recognised by columns that no other system has, or else by its name in the file's name.
What counts as proof of consent is narrow on purpose: an export that only says that somebody is on the list proves
nothing, and such people are imported as unconfirmed unless whoever imports them states their consent.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

FIELDS = {
    "email": "the address",
    "name": "the whole name",
    "first_name": "the first name",
    "last_name": "the last name",
    "language": "a language, as a code or by its name",
    "tags": "tags, with commas, semicolons or bars between",
    "attributes": "attributes as JSON, or as Python writes a dict",
    "status": "subscribed, unsubscribed, bounced, complained, blocked, unconfirmed, or a word of a preset's system",
    "subscribed": "true or false",
    "unsubscribed": "true, or the time at which somebody left",
    "joined": "the time at which somebody joined",
    "confirmed": "the time at which somebody confirmed: proof of consent",
    "confirmed_from": "the network address from which somebody signed up",
}
"""What a column may hold."""


def folded(text: str) -> str:
    """A column's name or a status word as it is compared: lower case, no accents, only letters and digits."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(sign for sign in plain if sign.isalnum())


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(folded(name) for name in text.split("|")))


NAMES: Mapping[str, tuple[str, ...]] = {
    "email": _names(
        "email|e-mail|email address|e-mail address|mail|mail address|email addr|email id|email 1|e-mail 1|"
        "e-mail 1 - value|contact email|subscriber email|user email|primary email|your email|"
        "correo electrónico|correo|dirección de correo electrónico|dirección de correo|dirección de email|"
        "email adresse|e-mail-adresse|mailadresse|e-post|e-postadresse|e-postadress|epost|"
        "courriel|adresse e-mail|adresse mail|adresse de courriel|adresse électronique|adresse courriel|mél|"
        "indirizzo email|indirizzo e-mail|posta elettronica|indirizzo di posta elettronica|"
        "endereço de e-mail|endereço de email|correio eletrónico|correio eletrônico|endereço eletrônico|"
        "e-mailadres|mailadres|sähköposti|sähköpostiosoite|adres e-mail|adres email|adresa de email|adresă de email|"
        "eposta|e-posta|e-posta adresi|e-mail cím|adreça electrònica|correu electrònic|correu|helbide elektronikoa|"
        "メールアドレス|メール|eメール|電子メール|邮箱|电子邮件|电子邮箱|電子郵件|電子信箱|이메일|이메일 주소|почта|"
        "электронная почта|адрес электронной почты|емейл|имейл|електронна пошта|ηλεκτρονικό ταχυδρομείο|"
        "البريد الإلكتروني|دואל|דוא״ל|אימייל|ईमेल"
    ),
    "name": _names(
        "name|full name|fullname|display name|contact name|subscriber name|your name|your full name|user name|"
        "nombre completo|nombre y apellidos|nombre y apellido|nombre|vollständiger name|nom complet|"
        "nom et prénom|prénom et nom|nom|nome completo|nome|volledige naam|naam|navn|namn|koko nimi|nimi|"
        "imię i nazwisko|nume complet|nume|ad soyad|név|nom i cognoms|氏名|名前|お名前|姓名|이름|имя|имя и фамилия|фио|"
        "ім'я|όνομα|الاسم|שם|नाम"
    ),
    "first_name": _names(
        "first name|firstname|fname|first|given name|forename|nombre de pila|nombres|primer nombre|vorname|prénom|"
        "primeiro nome|voornaam|fornavn|förnamn|etunimi|imię|prenume|ad|keresztnév|名|имя"
    ),
    "last_name": _names(
        "last name|lastname|lname|last|family name|surname|apellidos|apellido|nachname|familienname|"
        "nom de famille|cognome|sobrenome|apelido|apelidos|achternaam|etternavn|efternamn|efternavn|sukunimi|"
        "nazwisko|nume de familie|soyad|vezetéknév|cognoms|姓|фамилия"
    ),
    "language": _names(
        "language|lang|locale|language code|preferred language|idioma|idioma preferido|lengua|lenguaje|sprache|langue|"
        "lingua|língua|taal|språk|sprog|kieli|język|limba|dil|nyelv|llengua|hizkuntza|言語|语言|語言|언어|язык|мова|"
        "γλώσσα|اللغة|שפה"
    ),
    "tags": _names(
        "tags|tag|labels|label|etiquetas|etiqueta|schlagworte|schlagwörter|étiquettes|étiquette|mots-clés|etichette|"
        "tagi|taggar|merkelapper|etikettes|etichete|etiketler|címkék|タグ|标签|標籤|태그|теги|метки|groups|group|"
        "gruppen|groupes|grupos|gruppi"
    ),
    "attributes": _names("attributes|attribs|custom fields|custom attributes|metadata|data|atributos|datos"),
    "status": _names(
        "status|subscription status|subscriber status|email status|member status|contact status|statut|stato|"
        "estado|situación|situação|tila|durum|state|type|subscriber type|状态|ステータス|статус"
    ),
    "subscribed": _names("subscribed|is subscribed|subscribed to emails|accepts email marketing|accepts marketing"),
    "unsubscribed": _names(
        "unsubscribed|unsubscribed at|unsubscribe date|unsubscription date|date unsubscribed|unsub time|email disabled|"
        "opt out|opted out|opt-out date|email opt out|email blacklisted|baja|fecha de baja|désinscrit|abgemeldet|"
        "abgemeldet am"
    ),
    "joined": _names(
        "joined at|joined|date joined|optin time|opt-in time|opt-in date|optin date|subscribed at|subscribed on|"
        "subscription date|date subscribed|signup date|sign-up date|signed up|signed up at|signup timestamp|"
        "created at|created on|created|date created|creation date|created time|date added|added|added at|added time|"
        "registration date|date registered|timestamp|fecha de alta|fecha de suscripción|fecha de registro|alta|"
        "date d'inscription|inscrit le|angemeldet am|anmeldedatum|data di iscrizione|data de inscrição|"
        "subscribed"
    ),
    "confirmed": _names(
        "confirm time|confirmed at|confirmation time|confirmation date|confirmation timestamp|date confirmed|"
        "confirmed on|double opt-in at|double opt-in date|double opt-in time|doi date|fecha de confirmación|"
        "bestätigt am|date de confirmation"
    ),
    "confirmed_from": _names("optin ip|opt-in ip|signup ip|sign-up ip"),
}
"""Column names that are understood without being told, the clearest first."""

WEAK = frozenset(
    _names("address|adresse|dirección|indirizzo|endereço|adres|subscriber|user|username|contact|recipient|member|login")
)
"""Column names that are an address's only when most of what stands below is one."""

FAMILY_NAMES = {  # beside the key as first name, these are the last name and not the whole
    **dict.fromkeys(_names("vorname|voornaam|fornavn|förnamn"), frozenset(_names("name|naam|navn|namn"))),
    **dict.fromkeys(_names("prénom"), frozenset(_names("nom|name"))),
    **dict.fromkeys(_names("prenume"), frozenset(_names("nume"))),
}

STATUSES: Mapping[str, str] = {
    **dict.fromkeys(
        _names(
            "subscribed|active|activo|activa|actif|aktiv|attivo|ativo|enabled|confirmed|regular|opted in|opt-in|yes|"
            "subscriber|suscrito|suscrita|inscrit|abonné|abonniert|iscritto|inscrito"
        ),
        "subscribed",
    ),
    **dict.fromkeys(
        _names(
            "unconfirmed|pending|unactivated|not confirmed|awaiting confirmation|waiting|validating|non-subscribed|"
            "nonsubscribed|transactional|needs attention|new|pendiente|sin confirmar|en attente|ausstehend"
        ),
        "unconfirmed",
    ),
    **dict.fromkeys(
        _names(
            "unsubscribed|inactive|disabled|removed|opted out|opt-out|no|cancelled|canceled|archived|deleted|"
            "former subscriber|not subscribed|baja|dado de baja|inactivo|désinscrit|désabonné|abgemeldet|inaktiv|"
            "disiscritto|cancelado"
        ),
        "unsubscribed",
    ),
    **dict.fromkeys(
        _names(
            "bounced|bounce|hard bounce|hard bounced|cleaned|invalid|undeliverable|unreachable|rejected|rebotado|"
            "non-existent"
        ),
        "bounced",
    ),
    **dict.fromkeys(
        _names("complained|complaint|complaints|spam|spam complaint|junk|abuse|marked as spam"), "complained"
    ),
    **dict.fromkeys(
        _names("blocked|blocklisted|blacklisted|banned|suppressed|do not mail|do not contact|bloqueado"), "blocked"
    ),
}
"""Words of a status column, and which of ours each is."""

OURS = ("subscribed", "unconfirmed", "unsubscribed", "bounced", "complained", "blocked")

_STRICT_FILES = (
    ("unsubscribed", r"unsub\w*|opt[-_ ]?outs?|bajas?|d[eé]sinscrits?|abgemeldet\w*"),
    ("bounced", r"cleaned|bounce[ds]?|undeliverable"),
    ("complained", r"complain\w*|spam[-_ ]?reports?"),
    ("blocked", r"suppress\w*|block(?:ed|list\w*)|blacklist\w*|do[-_ ]?not[-_ ]?(?:mail|email|contact)"),
)


def status_of_name(file: str) -> str:
    """What a file's name says against mailing those in it: "" for most names."""
    for status, words in _STRICT_FILES:
        if re.search(rf"(?<![a-z])(?:{words})(?![a-z])", file.lower()):
            return status
    return ""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What is special about one system's export."""

    name: str
    title: str
    marks: tuple[frozenset[str], ...]  # any of these sets of columns tells it
    files: str = ""  # a regular expression for names of its files
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # field → names, before those of NAMES
    without: frozenset[str] = frozenset()  # names that mean nothing here, where its columns tell that it is it
    statuses: Mapping[str, str] = field(default_factory=dict)  # before those of STATUSES
    named: bool = False  # the status is in the file's name
    proof: bool = False  # a time of confirmation counts only after a sign-up that the person made


def _marks(*sets: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(_names(each)) for each in sets)


def _words(**groups: str) -> dict[str, str]:
    return {word: status for status, words in groups.items() for word in _names(words)}


PRESETS: tuple[Preset, ...] = (
    # Mailchimp writes a time of confirmation for everybody, also for those whom an owner uploaded. Only somebody who
    # signed up has an address of the sign-up, or an earlier time of it.
    Preset(
        name="mailchimp",
        title="Mailchimp",
        marks=_marks("LEID|EUID", "MEMBER_RATING|OPTIN_TIME", "MEMBER_RATING|CONFIRM_TIME", "OPTIN_TIME|CONFIRM_TIME"),
        files=r"(?:un|non)?subscribed_.*export|cleaned_.*export|mailchimp",
        columns={"joined": _names("OPTIN_TIME"), "unsubscribed": ()},
        named=True,
        proof=True,
    ),
    Preset(
        name="substack",
        title="Substack",
        marks=_marks(
            "email|active_subscription",
            "email|email_disabled",
            "email|subscription type|receiving emails for",
            "email|subscription type|subscription source (free)",
        ),
        files=r"email_list|substack|signup_emails|subscriber_emails",
        # active_subscription tells who pays; who does not is a reader all the same.
        columns={
            "unsubscribed": _names("email_disabled|unsubscribed_at"),
            "joined": _names("created_at|subscription date"),
        },
        without=frozenset(_names("type|active_subscription|subscription type")),
    ),
    Preset(
        name="ghost",
        title="Ghost",
        marks=_marks("subscribed_to_emails"),
        files=r"ghost.*members|members\.\d{4}-\d\d-\d\d",
        columns={
            "subscribed": _names("subscribed_to_emails"),
            "unsubscribed": _names("deleted_at"),
            "tags": _names("labels"),
        },
        without=frozenset(_names("status|type|state")),
    ),
    Preset(
        name="listmonk",
        title="listmonk",
        marks=_marks("uuid|email|attributes|status", "uuid|email|attribs|status"),
        files=r"listmonk",
        statuses=_words(subscribed="enabled", unsubscribed="disabled", blocked="blocklisted|blacklisted"),
    ),
    Preset(
        name="keila",
        title="Keila",
        marks=_marks("email|first name|last name|data|status", "email|first name|last name|data|external id"),
        files=r"keila|contacts_(?:np|nmp|p)_\w+",
        statuses=_words(subscribed="active", unsubscribed="unsubscribed", bounced="unreachable"),
    ),
    Preset(
        name="buttondown",
        title="Buttondown",
        marks=_marks("email|subscriber_type", "email|metadata|tags", "email_address|metadata", "email|metadata|type"),
        files=r"buttondown",
        columns={
            "email": _names("email|email_address"),
            "status": _names("subscriber_type|type|status"),
            "joined": _names("subscription_date|creation_date"),
            "unsubscribed": _names("unsubscription_date"),
        },
        statuses=_words(
            subscribed="regular|premium|paid|gifted|trialed|past_due|churning",
            unconfirmed="unactivated|unpaid|churned|paused|upcoming",
            unsubscribed="unsubscribed|removed|disabled",
            bounced="undeliverable",
            complained="complained",
            blocked="blocked|spammy",
        ),
    ),
    Preset(
        name="beehiiv",
        title="beehiiv",
        marks=_marks(
            "email|status|tier|created_at",
            "email|status|subscription tier",
            "email|status|subscription premium tiers",
            "email|status|created|utm_source",
            "email|status|created_at|utm_source",
            "email|status|referral code",
        ),
        files=r"beehiiv",
        statuses=_words(
            subscribed="active",
            unconfirmed="pending|validating|needs_attention",
            unsubscribed="inactive|unsubscribed",
            bounced="invalid",
        ),
    ),
    Preset(
        name="mailerlite",
        title="MailerLite",
        marks=_marks(
            "subscriber|subscribed|location",
            "subscriber|sent|opened",
            "subscriber|sent|opens",
            "email|subscribed|location",
            "email|subscribed|opened|clicked",
            "email|subscribed|opens|clicks",
            "email|optin_ip|confirmation_ip",
            "email|signup timestamp|confirmation timestamp",
        ),
        files=r"mailer-?lite",
        columns={
            "email": _names("email|subscriber"),
            "joined": _names("subscribed|subscribed at|date subscribed|signup timestamp|opt-in date"),
            "subscribed": (),
        },
        statuses=_words(
            subscribed="active",
            unconfirmed="unconfirmed",
            unsubscribed="unsubscribed",
            bounced="bounced",
            complained="junk",
        ),
        proof=True,
    ),
)

OWN = Preset(  # what exporting.py writes; the last of its columns is the mark
    name="newsletter",
    title="our own export",
    marks=_marks("newsletter_export"),
    columns={
        "email": ("email",),
        "name": ("name",),
        "language": ("language",),
        "tags": ("tags",),
        "attributes": ("attributes",),
        "status": ("state",),
        "joined": _names("joined_at"),
        "list": ("list",),
        "suppressed": ("suppressed",),
        **dict.fromkeys(("first_name", "last_name", "subscribed", "unsubscribed", "confirmed", "confirmed_from"), ()),
    },
)


def recognise(columns: tuple[str, ...], file: str) -> tuple[Preset | None, str]:
    """The preset that fits, and why: "its columns", "its name" or ""."""
    names = frozenset(folded(column) for column in columns)
    for preset in (OWN, *PRESETS):
        if any(mark <= names for mark in preset.marks):
            return preset, "its columns"
    for preset in PRESETS:
        if preset.files and re.search(preset.files, file.lower()):
            return preset, "its name"
    return None, ""


def status_of_file(preset: Preset | None, columns: tuple[str, ...], file: str) -> str:
    """The status of everybody in a file, where its name or its columns say so; else "". The stricter one counts."""
    strict = status_of_name(file)
    if preset is None or not preset.named:
        return strict
    names = {folded(column) for column in columns}
    if strict == "bounced" or "cleantime" in names:
        return "bounced"
    if strict == "unsubscribed" or "unsubtime" in names:
        return "unsubscribed"
    return strict or ("unconfirmed" if re.search(r"non[-_ ]?subscribed|transactional", file.lower()) else "subscribed")


LANGUAGES: Mapping[str, str] = {
    name: code
    for code, names in {
        "en": "english|inglés|anglais|englisch|inglese|inglês|engels|英語|英语|английский",
        "es": "spanish|español|castellano|espagnol|spanisch|spagnolo|espanhol|spaans|スペイン語|西班牙语|испанский",
        "fr": "french|français|francés|französisch|francese|francês|frans|フランス語|法语|французский",
        "de": "german|deutsch|alemán|allemand|tedesco|alemão|duits|ドイツ語|德语|немецкий",
        "it": "italian|italiano|italien|italienisch|italiaans",
        "pt": "portuguese|português|portugués|portugais|portugiesisch|portoghese|portugees",
        "nl": "dutch|nederlands|neerlandés|holandés|néerlandais|niederländisch|olandese|holandês",
        "ca": "catalan|català|catalán|katalanisch",
        "eu": "basque|euskara|euskera|vasco",
        "gl": "galician|galego|gallego",
        "qu": "quechua|runa simi|runasimi",
        "ay": "aymara|aimara",
        "pl": "polish|polski|polaco|polonais|polnisch",
        "ru": "russian|русский|ruso|russe|russisch",
        "uk": "ukrainian|українська|ucraniano|ukrainisch",
        "ar": "arabic|العربية|árabe|arabe|arabisch",
        "he": "hebrew|עברית|hebreo|hébreu|hebräisch",
        "tr": "turkish|türkçe|turco|türkisch",
        "zh": "chinese|中文|chino|chinois|chinesisch",
        "ja": "japanese|日本語|japonés|japonais|japanisch",
        "ko": "korean|한국어|coreano|coréen|koreanisch",
    }.items()
    for name in _names(names)
}
"""Languages by their names."""
