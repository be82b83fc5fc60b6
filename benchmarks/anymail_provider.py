"""What the anymail provider costs on its own: no ledger, but the sealing and the flight recorder.

    PYTHONPATH=. python benchmarks/anymail_provider.py [SERVICE …]      postmark, resend, ses, mailgun, sparkpost, brevo

Each service is a process on the loopback interface that takes every request at once with the answer that the service
gives. A message has 48 KB. One by one, it is measured again with answers after 50 ms. Beside it, a bare session of
`requests` that posts as many octets, on which django-anymail is built.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import requests
from smtp_provider import edition, recipients

from newsletter.config import Anymail
from newsletter.providers.anymail import AnymailProvider
from newsletter.providers.anymail_services import SERVICES
from newsletter.recorder import Lease, Recorder

ONE: dict[str, Any] = {
    "postmark": {"ErrorCode": 0, "Message": "OK", "MessageID": "b7bc2f4a-e38e-4336-af7d-e6c392c2f817"},
    "resend": {"id": "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"},
    "mailersend": {},
    "mailtrap": {"success": True, "message_ids": ["0c7fd939-02cf-11ed-88c2-0a58a9feac02"]},
    "mandrill": [{"email": "", "status": "sent", "_id": "abc123abc123abc123abc123abc123"}],
    "scaleway": {"emails": [{"id": "6e2f0b1c", "mail_rcpt": "", "status": "new"}]},
    "postal": {"status": "success", "data": {"messages": {"": {"id": 8237, "token": "LcMXkbP8"}}}},
    "ses": {"MessageId": "0100017a-1b2c-3d4e"},
    "mailgun": {"id": "<20261128.1.2@example.org>", "message": "Queued. Thank you."},
    "brevo": {"messageIds": []},
}


def answer_of(service: str, body: bytes) -> bytes:
    """What the service would say to this request: for how many recipients it was, where that matters."""
    if service == "sparkpost":
        size = body.count(b'"header_to"')
        answer: Any = {"results": {"total_rejected_recipients": 0, "total_accepted_recipients": size, "id": "1166"}}
    elif service == "mailjet":
        answer = {"Messages": [{"Status": "success", "To": [{"MessageID": 1}]} for _ in range(body.count(b'"To": ['))]}
    elif service == "unisender":
        emails = [each["email"] for each in json.loads(body)["message"]["recipients"]]
        answer = {"status": "success", "job_id": "1ZymBc", "emails": emails}
    elif service == "postmark":
        answer = {**ONE["postmark"], "To": body.partition(b'"To": "')[2].partition(b'"')[0].decode()}
    else:
        answer = ONE[service]
    return json.dumps(answer).encode()


def serve(service: str, port: Any, delay: float, ended: Event) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    port.value = listener.getsockname()[1]

    def talk(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        held = bytearray()
        said: dict[int, bytes] = {}
        while piece := sock.recv(1 << 20):
            held += piece
            while (end := held.find(b"\r\n\r\n")) >= 0:
                at = held.lower().find(b"content-length:", 0, end)
                size = int(held[at + 15 : held.find(b"\r\n", at)])
                if len(held) < end + 4 + size:
                    break
                body = bytes(held[end + 4 : end + 4 + size])
                del held[: end + 4 + size]
                if SERVICES[service].batch > 1 or service == "postmark" or not said:
                    said[0] = answer_of(service, body)
                if delay:
                    time.sleep(delay)
                length = f"Content-Length: {len(said[0])}\r\n\r\n"
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Message-Id: 1\r\n{length}"
                sock.sendall(head.encode() + said[0])

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=talk, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    ended.wait()


def measured(service: str, *, seconds: float, delay: float, connections: int) -> tuple[float, float]:
    """Recipients per second, and µs of CPU of this process for each."""
    context = multiprocessing.get_context("spawn")
    port, ended = context.Value("i", 0), context.Event()
    process = context.Process(target=serve, args=(service, port, delay, ended), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.01)
    region = "eu-west-1" if service == "ses" else ""
    url = f"http://127.0.0.1:{port.value}/"
    config = Anymail(service=service, key="key", secret="secret", region=region, url=url, connections=connections)
    provider = AnymailProvider(config)
    lanes = min(provider.limits.lanes, 2 if provider.limits.chunk > 200 else 4)
    message, chunk = edition(), recipients(0, min(provider.limits.chunk, 1000))
    counted = [0] * lanes
    with tempfile.TemporaryDirectory() as folder:
        recorders = [
            Recorder(Path(folder), Lease(batch=lane, epoch=1, until=time.time() + 3600), store="s", owner="o")
            for lane in range(lanes)
        ]

        def send(lane: int, until: float) -> None:
            while time.perf_counter() < until:
                outcomes = provider.send(message, chunk, recorders[lane])
                assert all(outcome.state == "accepted" for outcome in outcomes), outcomes[0]
                counted[lane] += len(chunk)

        with ThreadPoolExecutor(lanes) as pool:
            list(pool.map(send, range(lanes), [time.perf_counter() + 0.5] * lanes))  # connections are made
            counted[:] = [0] * lanes
            started, used = time.perf_counter(), _cpu()
            list(pool.map(send, range(lanes), [started + seconds] * lanes))
            took, used = time.perf_counter() - started, _cpu() - used
        for recorder in recorders:
            recorder.close()
    provider.close()
    ended.set()
    process.join()
    return sum(counted) / took, used / sum(counted) * 1e6


def bare(*, seconds: float) -> tuple[float, float]:
    """A session of requests that posts as many octets: posts per second, and µs of CPU for each."""
    context = multiprocessing.get_context("spawn")
    port, ended = context.Value("i", 0), context.Event()
    process = context.Process(target=serve, args=("resend", port, 0.0, ended), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.01)
    body, count = json.dumps({"html": "x" * 48_000}), 0
    with requests.Session() as session:
        session.post(f"http://127.0.0.1:{port.value}/", data=body, timeout=10)
        started, used = time.perf_counter(), _cpu()
        while time.perf_counter() < started + seconds:
            session.post(f"http://127.0.0.1:{port.value}/", data=body, timeout=10).json()
            count += 1
        took, used = time.perf_counter() - started, _cpu() - used
    ended.set()
    process.join()
    return count / took, used / count * 1e6


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(names: list[str]) -> None:
    rate, cpu = bare(seconds=2)
    print(f"{'bare requests, one thread':<34}{rate:>8.0f} posts/s      {cpu:>6.0f} µs CPU")
    for name in names:
        batch = SERVICES[name].batch > 1
        rate, cpu = measured(name, seconds=3, delay=0.0, connections=4)
        print(f"{name + (', in batches' if batch else ', one by one'):<34}{rate:>8.0f} recipients/s {cpu:>6.0f} µs CPU")
        if not batch:
            rate, cpu = measured(name, seconds=3, delay=0.05, connections=32)
            print(f"{name + ', answers after 50 ms':<34}{rate:>8.0f} recipients/s {cpu:>6.0f} µs CPU")


if __name__ == "__main__":
    main(sys.argv[1:] or ["postmark", "resend", "ses", "mailgun", "sparkpost", "brevo"])
