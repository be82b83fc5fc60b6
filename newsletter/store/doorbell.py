"""The one place that wakes a worker: with `engine: cluster`, a job that exists if and only if its cause is committed.

Whoever rings need not know who answers: the task is a name. With `engine: local` nobody listens, and nothing is done:
that loop looks for work every second.
"""

from __future__ import annotations

import json

from django.conf import settings
from django.db import connection

from newsletter.store.queue import QUEUE

PRIORITY = {"wake": 20, "answer_wishes": 15}  # the higher goes first; 0 for the rest


def ring(task: str, **ids: int) -> None:
    """Lets a worker of the cluster run `task` once the current transaction is committed.

    Without ids it is a hint, which is left out when the same one waits already: a thousand sign-ups at once need one.
    Does nothing with `engine: local`, on SQLite, and before `newsletter migrate` has made Procrastinate's tables; the
    periodic tasks find the work some seconds later. It takes no lock that another transaction could wait for.

    Made for the function `procrastinate_defer_jobs_v1` of Procrastinate 3.2 to 3.10.
    """
    if getattr(settings, "NEWSLETTER_ENGINE", "local") != "cluster" or connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regtype('procrastinate_job_to_defer_v1') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return
        waits = "EXISTS (SELECT 1 FROM procrastinate_jobs WHERE status = 'todo' AND queue_name = %s AND task_name = %s)"
        cursor.execute(
            "SELECT procrastinate_defer_jobs_v1(ARRAY[ROW(%s, %s, %s, NULL, NULL, %s::jsonb, NULL)"
            f"::procrastinate_job_to_defer_v1]) WHERE %s OR NOT {waits}",
            (QUEUE, task, PRIORITY.get(task, 0), json.dumps(ids), bool(ids), QUEUE, task),
        )
