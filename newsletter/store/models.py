"""The tables. Hot statements are hand-written SQL in the modules beside; the models give migrations and the ORM.

Every state is a word that can be read in a database shell, and a constraint keeps other words out. Times of the ledger
(`Batch`, `Delivery`) are Unix seconds, since they are compared and written a million at a time; all other times are
aware datetimes. An `address_key` is 16 octets: the start of HMAC-SHA256 over the normalised address (store/keys.py).
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import ClassVar

from django.db import models

KEY_LENGTH = 16  # octets of an address_key

SUBSCRIPTION_STATES = ("unconfirmed", "subscribed", "unsubscribed")
SUPPRESSION_REASONS = ("bounce", "complaint", "erased", "manual")
MAILING_KINDS = ("issue", "oneoff")
MAILING_STATES = ("scheduled", "opening", "sending", "paused", "cancelled", "finished")
BATCH_STATES = ("ready", "leased", "done")
DELIVERY_STATES = ("pending", "sending", "accepted", "refused", "in_doubt", "skipped")
FATES = ("delivered", "bounced", "complained")
WISH_KINDS = ("signup", "link", "address")
WISH_STATES = ("waiting", "mailed", "granted", "dropped")


def _words(name: str, column: str, words: tuple[str, ...]) -> models.CheckConstraint:
    # One comparison after the other: for IN, SQLite builds a set at every statement (1 to 3 µs a row).
    alternatives = [models.Q(**{column: word}) for word in words]
    return models.CheckConstraint(condition=reduce(or_, alternatives), name=name)


class Fact(models.Model):
    """Single facts about this database: the workspace's id, check values of its keys."""

    name = models.CharField(max_length=64, primary_key=True)
    value = models.TextField()

    class Meta:
        db_table = "fact"


class Subscriber(models.Model):
    """A person with an address. Leaving a list is up to `Subscription`, not to be mailed at all to `Suppression`."""

    id = models.BigAutoField(primary_key=True)
    address_key = models.BinaryField(max_length=KEY_LENGTH, unique=True)
    address = models.TextField()  # as typed
    name = models.TextField(default="")
    language = models.CharField(max_length=35, default="")  # "": the default language of the workspace
    attributes = models.JSONField(default=dict)  # flat: name → string, number, boolean
    created_at = models.DateTimeField()
    paused_until = models.FloatField(null=True)  # Unix seconds: no issue before then
    tracking = models.BooleanField(null=True)  # whether opens and clicks may be counted; None: was never asked

    class Meta:
        db_table = "subscriber"


class Tag(models.Model):
    name = models.TextField(unique=True)

    class Meta:
        db_table = "tag"


class SubscriberTag(models.Model):
    # Without constraints: PostgreSQL would check each of them for every row of an import, at half its time.
    tag = models.ForeignKey(Tag, models.CASCADE, db_index=False, db_constraint=False)
    subscriber = models.ForeignKey(Subscriber, models.CASCADE, related_name="tags", db_constraint=False)

    class Meta:
        db_table = "subscriber_tag"
        constraints: ClassVar = [models.UniqueConstraint(fields=("tag", "subscriber"), name="subscriber_tag_once")]


class List(models.Model):
    """A list of subscribers/lists.yaml that somebody has joined; its texts stay in the file."""

    name = models.CharField(max_length=64, unique=True)  # the id in lists.yaml

    class Meta:
        db_table = "list"


class Consent(models.Model):
    """One act of consent or of its withdrawal. Rows are only ever added, and deleted when the person is erased.

    An import writes one event without a subscriber; its subscriptions point to it.
    """

    id = models.BigAutoField(primary_key=True)
    subscriber = models.ForeignKey(Subscriber, models.CASCADE, null=True, related_name="consents")
    list = models.ForeignKey(List, models.PROTECT, null=True, db_index=False)
    kind = models.CharField(max_length=20)  # import, add, signup, confirm, unsubscribe, undo, tracking, address
    text = models.TextField(default="")  # the exact words that the person saw, or what the import states
    text_version = models.CharField(max_length=64, default="")
    language = models.CharField(max_length=35, default="")
    how = models.TextField(default="")  # "file people.csv", "one-click", "page"; never an address
    evidence = models.JSONField(default=dict)  # what else was kept: the network it came from, the file's SHA-256
    at = models.DateTimeField()

    class Meta:
        db_table = "consent"


class Subscription(models.Model):
    id = models.BigAutoField(primary_key=True)
    list = models.ForeignKey(List, models.PROTECT, db_index=False, db_constraint=False)
    subscriber = models.ForeignKey(Subscriber, models.CASCADE, related_name="subscriptions", db_constraint=False)
    state = models.CharField(max_length=12)
    consent = models.ForeignKey(Consent, models.SET_NULL, null=True, db_index=False, db_constraint=False)
    joined_at = models.DateTimeField()  # when it was made, or made again
    changed_at = models.DateTimeField()  # when its state became what it is

    class Meta:
        db_table = "subscription"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=("list", "subscriber"), name="subscription_once"),
            _words("subscription_state", "state", SUBSCRIPTION_STATES),
        ]


class Suppression(models.Model):
    """An address never to be mailed, whoever writes it. Outlives the subscriber."""

    address_key = models.BinaryField(max_length=KEY_LENGTH, primary_key=True)
    reason = models.CharField(max_length=12)
    note = models.TextField(default="")  # never holds the address
    at = models.DateTimeField()

    class Meta:
        db_table = "suppression"
        constraints: ClassVar = [_words("suppression_reason", "reason", SUPPRESSION_REASONS)]


class Wish(models.Model):
    """What somebody asked for at the pages, and a mail has to answer: to be signed up, a link, another address.

    The page writes one row, the same for a known, a new and a suppressed address, and answers. A duty does what differs
    (`waiting` → `mailed`, or `dropped` with the reason). The link of its mail carries the row's id, and whoever follows
    it has the wish `granted`. Times are Unix seconds.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=7)
    state = models.CharField(max_length=7, default="waiting")
    subscriber = models.ForeignKey(
        Subscriber, models.CASCADE, null=True, db_index=False, db_constraint=False, related_name="wishes"
    )
    address = models.TextField()  # as typed; emptied once granted or dropped
    address_key = models.BinaryField(max_length=KEY_LENGTH)
    name = models.TextField(default="")
    language = models.CharField(max_length=35, default="")  # what was chosen, and so that of the mail
    lists = models.JSONField(default=list)  # ids in lists.yaml
    text = models.TextField(default="")  # the exact words of consent that the person saw
    text_version = models.CharField(max_length=64, default="")
    text_language = models.CharField(max_length=35, default="")  # that of the page
    how = models.CharField(max_length=20)  # page, form (on another site), preferences
    network = models.CharField(max_length=43, default="")  # "203.0.113.0/24": where it came from, no nearer than that
    proof = models.BinaryField(max_length=KEY_LENGTH, null=True, unique=True)  # the proof of work, which counts once
    reason = models.CharField(max_length=100, default="")  # why it was dropped
    at = models.FloatField()
    not_before = models.FloatField()  # a delayed one waits until then
    mailed_at = models.FloatField(null=True)
    granted_at = models.FloatField(null=True)
    welcome_due = models.BooleanField(default=False)  # granted, and the list's welcome has not been posted yet

    class Meta:
        db_table = "wish"
        constraints: ClassVar = [_words("wish_kind", "kind", WISH_KINDS), _words("wish_state", "state", WISH_STATES)]
        indexes: ClassVar = [
            models.Index(fields=("not_before",), name="wish_waiting", condition=models.Q(state="waiting")),
            models.Index(fields=("granted_at",), name="wish_welcome", condition=models.Q(welcome_due=True)),
            models.Index(fields=("address_key",), name="wish_of_address"),
            models.Index(
                fields=("subscriber",), name="wish_of_subscriber", condition=models.Q(subscriber__isnull=False)
            ),
            models.Index(fields=("at",), name="wish_at"),
        ]


class Allowance(models.Model):
    """How many mails of a kind the pages have caused to one mailbox, whoever asked for them.

    The key is like an address_key, but of the address without its dots and what follows a plus (store/wishes.py).
    """

    id = models.BigAutoField(primary_key=True)
    key = models.BinaryField(max_length=KEY_LENGTH)
    kind = models.CharField(max_length=7)  # one of the limits of store/answering.py
    total = models.IntegerField(default=0)  # in all, or since the last one that was answered
    today = models.IntegerField(default=0)  # within 24 hours of `since`
    since = models.FloatField()

    class Meta:
        db_table = "allowance"
        constraints: ClassVar = [models.UniqueConstraint(fields=("key", "kind"), name="allowance_once")]


class Rate(models.Model):
    """How often something was asked of the pages in one slot of time, over all server processes."""

    id = models.BigAutoField(primary_key=True)
    scope = models.CharField(max_length=60)  # "wish", "wish 203.0.113.0/24"
    slot = models.BigIntegerField()  # Unix seconds ÷ the length of a slot
    count = models.IntegerField()

    class Meta:
        db_table = "rate"
        constraints: ClassVar = [models.UniqueConstraint(fields=("scope", "slot"), name="rate_once")]


class Round(models.Model):
    """One sending of an issue to everybody whom it concerns; `--again` makes the next number."""

    issue = models.CharField(max_length=100)  # "2017-11-19"
    number = models.IntegerField()

    class Meta:
        db_table = "round"
        constraints: ClassVar = [models.UniqueConstraint(fields=("issue", "number"), name="round_once")]


class Mailing(models.Model):
    """One issue to one audience, or all one-off mail of one kind.

    `scheduled`: waits for `send_at`, and nobody is written down yet. `opening`: recipients are still being written
    down. `sending`: open, its batches may be claimed. `paused`: waits for a human, with the reason. `cancelled`,
    `finished`: nothing is pending.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=8)
    round = models.ForeignKey(Round, models.PROTECT, null=True)  # issue mailings
    name = models.CharField(max_length=100, default="")  # one-off: "confirm", "welcome"
    list = models.ForeignKey(List, models.PROTECT, null=True, db_index=False)
    segment = models.TextField(default="")  # its name in lists.yaml at opening
    state = models.CharField(max_length=10)
    reason = models.TextField(default="")  # why it is paused or cancelled; the next step
    provider = models.CharField(max_length=64)  # the names of its ways out in their order, a comma between
    send_at = models.DateTimeField(null=True)  # not before; of a local time, the first moment at which it is anywhere
    zone = models.CharField(max_length=64, default="")  # the time zone of `send_at` as it was asked for
    local_time = models.CharField(max_length=16, default="")  # "2026-11-27T08:00", in each subscriber's own zone
    manifest_hash = models.CharField(max_length=64, default="")
    private = models.BooleanField(default=False)  # its editions stay out of the public archive
    audience = models.BigIntegerField(default=0)  # recipients written down; grows while opening
    left_out = models.JSONField(default=dict)  # reason → how many of the list were not written down
    plan = models.JSONField(default=dict)  # opening: the compiled segment and how far the key ranges are done
    on_doubt = models.CharField(max_length=6, default="hold")
    created_at = models.DateTimeField()
    opened_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    watched_at = models.DateTimeField()  # a worker last looked after it: what the grace period is measured from

    class Meta:
        db_table = "mailing"
        constraints: ClassVar = [
            _words("mailing_kind", "kind", MAILING_KINDS),
            _words("mailing_state", "state", MAILING_STATES),
            _words("mailing_on_doubt", "on_doubt", ("hold", "resend")),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=("kind", "id"), name="mailing_open", condition=models.Q(state__in=("opening", "sending"))
            )
        ]


class Edition(models.Model):
    """An edition as frozen at opening: what everybody of that language gets."""

    id = models.BigAutoField(primary_key=True)
    mailing = models.ForeignKey(Mailing, models.CASCADE, related_name="editions")
    language = models.CharField(max_length=35)
    hash = models.CharField(max_length=64)  # SHA-256 of content
    content = models.TextField()  # the Edition as JSON (store/editions.py)

    class Meta:
        db_table = "edition"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=("mailing", "language", "hash"), name="edition_once"),
        ]


class Image(models.Model):
    """A picture that something sent links to. Its name is its content's, so that neither ever changes."""

    name = models.CharField(max_length=40, primary_key=True)  # 32 hexadecimal digits of its SHA-256, and .png
    media_type = models.CharField(max_length=20)
    content = models.BinaryField()

    class Meta:
        db_table = "image"


class Batch(models.Model):
    """Deliveries of one edition with neighbouring ids, claimed together. The lease and the epoch are its fence."""

    id = models.BigAutoField(primary_key=True)
    mailing = models.ForeignKey(Mailing, models.CASCADE, db_index=False)
    edition = models.ForeignKey(Edition, models.CASCADE, db_index=False)
    first = models.BigIntegerField()  # delivery ids, both included
    last = models.BigIntegerField()
    state = models.CharField(max_length=6, default="ready")
    epoch = models.IntegerField(default=0)
    owner = models.CharField(max_length=100, default="")
    lease_until = models.FloatField(default=0)
    not_before = models.FloatField(default=0)
    answered = models.IntegerField(default=0)  # accepted and refused at once by the provider
    refused = models.IntegerField(default=0)

    class Meta:
        db_table = "batch"
        constraints: ClassVar = [_words("batch_state", "state", BATCH_STATES)]
        indexes: ClassVar = [
            models.Index(fields=("mailing", "not_before"), name="batch_ready", condition=models.Q(state="ready")),
            models.Index(fields=("lease_until",), name="batch_leased", condition=models.Q(state="leased")),
            models.Index(fields=("mailing", "first"), name="batch_of_mailing"),
        ]


class Delivery(models.Model):
    """One mailing to one person: the ledger's row. Rows of a batch are those with ids from `first` to `last`."""

    id = models.BigAutoField(primary_key=True)
    mailing = models.ForeignKey(Mailing, models.CASCADE, db_index=False, db_constraint=False)
    subscriber = models.ForeignKey(
        Subscriber, models.DO_NOTHING, null=True, db_index=False, db_constraint=False, related_name="deliveries"
    )
    round = models.ForeignKey(Round, models.PROTECT, null=True, db_index=False, db_constraint=False)
    key = models.CharField(max_length=100, null=True)  # one-off mail: "confirm:7:1", once
    address = models.TextField()
    address_key = models.BinaryField(max_length=KEY_LENGTH, null=True)
    language = models.CharField(max_length=35)
    slots = models.TextField(null=True)  # one-off mail: JSON, emptied once accepted
    state = models.CharField(max_length=8, default="pending")
    epoch = models.IntegerField(default=0)  # of the batch's lease under which it was last sent
    way = models.SmallIntegerField(null=True)  # the way out it was last handed to (`Way`), written with the intent
    attempts = models.IntegerField(default=0)
    not_before = models.FloatField(default=0)  # a deferred one waits until then
    at = models.FloatField()  # when its state became what it is
    provider_ref = models.TextField(default="")
    detail = models.TextField(default="")  # the provider's words, or why it was skipped; never an address
    fate = models.CharField(max_length=12, null=True)  # what an event said later
    fate_at = models.FloatField(null=True)

    class Meta:
        db_table = "delivery"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=("subscriber", "round"), name="delivery_once"),
            models.UniqueConstraint(fields=("key",), name="delivery_key_once", condition=models.Q(key__isnull=False)),
            _words("delivery_state", "state", DELIVERY_STATES),
        ]


class Way(models.Model):
    """A way out as newsletter.yaml names it, so that a delivery can say in two octets which one took it."""

    id = models.SmallAutoField(primary_key=True)
    name = models.CharField(max_length=64, unique=True)
    begun_at = models.FloatField(null=True)  # when the first message left through it: where its warm-up begins

    class Meta:
        db_table = "way"


class Spending(models.Model):
    """How many messages left through a way out in one slot of time: what its hourly and daily caps are counted from."""

    id = models.BigAutoField(primary_key=True)
    way = models.ForeignKey(Way, models.CASCADE, db_index=False)
    span = models.CharField(max_length=4)  # the cap that it counts for: hour or day, whose slots differ in length
    slot = models.BigIntegerField()  # its number since 1970
    issue = models.IntegerField(default=0)
    oneoff = models.IntegerField(default=0)
    confirm = models.IntegerField(default=0)  # sign-up confirmations; not counted in `oneoff`

    class Meta:
        db_table = "spending"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=("way", "span", "slot"), name="spending_once"),
            _words("spending_span", "span", ("hour", "day")),
        ]


class Bucket(models.Model):
    """The token bucket of a way out's rate per second, or of the share of it that confirmations may take."""

    id = models.BigAutoField(primary_key=True)
    way = models.ForeignKey(Way, models.CASCADE, db_index=False)
    share = models.CharField(max_length=7)
    tokens = models.FloatField()  # messages that may leave at once
    at = models.FloatField()  # when there were so many

    class Meta:
        db_table = "bucket"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=("way", "share"), name="bucket_once"),
            _words("bucket_share", "share", ("all", "confirm")),
        ]


class Worker(models.Model):
    """A worker at work, as it last said itself. Rows of workers that were killed stay until they are forgotten."""

    owner = models.CharField(max_length=100, primary_key=True)  # host:pid, as in `Batch.owner`
    engine = models.CharField(max_length=16)
    state = models.CharField(max_length=8)  # working, stopping
    started_at = models.FloatField()
    seen_at = models.FloatField()
    answered = models.BigIntegerField(default=0)  # messages with a definite answer since it began
    per_second = models.FloatField(default=0)
    health = models.JSONField(default=dict)  # way out → {"state": "ready" | "down" | "full", "why", "until"}
    trouble = models.TextField(default="")  # what last went wrong with the ledger or the disk; never an address

    class Meta:
        db_table = "worker"
