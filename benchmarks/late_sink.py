"""A mail server that answers late: `late_sink.py PORT MILLISECONDS [--hanging] [--tls NEW_FILE]`.

Every answer comes so late after the command arrived; commands that came together are answered together. `--hanging`
never answers one of its connections, from MAIL on. `--tls` offers STARTTLS, with a
certificate for localhost, and writes the authority that vouches for it into a new file.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path


class Sink(asyncio.Protocol):
    late = 0.0
    hanging = False
    context: ssl.SSLContext | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if not hasattr(self, "held"):
            self.held, self.body, self.tls, self.hangs = b"", False, False, False
            self.encrypting = False
            self.answer(b"220 late.example ESMTP\r\n")

    def answer(self, text: bytes) -> None:
        if Sink.late:
            asyncio.get_running_loop().call_later(Sink.late, self.transport.write, text)
        else:
            self.transport.write(text)

    def data_received(self, data: bytes) -> None:
        self.held += data
        if self.encrypting:  # the client may be faster than `encrypt`, which has no transport to answer on yet
            return
        answers = b""
        while True:
            if self.body:
                end = self.held.find(b"\r\n.\r\n")
                if end < 0:
                    break
                self.held, self.body = self.held[end + 5 :], False
                answers += b"250 2.0.0 Ok: queued as 1F2E3D4C\r\n"
                continue
            line, found, rest = self.held.partition(b"\r\n")
            if not found:
                break
            self.held = rest
            verb = line[:4].upper()
            if verb == b"EHLO":
                answers += b"250-late.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n"
                answers += b"250-STARTTLS\r\n" if Sink.context and not self.tls else b""
                answers += b"250 ENHANCEDSTATUSCODES\r\n"
            elif verb == b"STAR":
                self.transport.pause_reading()  # what comes now is for the encrypted transport, which resumes
                self.transport.write(b"220 2.0.0 ready\r\n")
                self.encrypting = True
                asyncio.get_running_loop().create_task(self.encrypt())
                return
            elif verb == b"MAIL" and Sink.hanging:
                Sink.hanging, self.hangs = False, True  # the first that gets so far, and no other
            elif self.hangs:
                continue
            elif verb == b"DATA":
                self.body = True
                answers += b"354 go on\r\n"
            elif verb == b"QUIT":
                answers += b"221 2.0.0 bye\r\n"
            else:
                answers += b"250 2.1.0 Ok\r\n"
        if answers:
            self.answer(answers)

    async def encrypt(self) -> None:
        assert Sink.context is not None
        self.tls = True
        transport = await asyncio.get_running_loop().start_tls(self.transport, self, Sink.context, server_side=True)
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.encrypting = transport, False
        self.data_received(b"")


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, backlog=200)
    await server.serve_forever()


if __name__ == "__main__":
    Sink.late = int(sys.argv[2]) / 1000
    Sink.hanging = "--hanging" in sys.argv
    if "--tls" in sys.argv:
        import trustme

        authority = trustme.CA()
        Sink.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(Sink.context)
        with Path(sys.argv[sys.argv.index("--tls") + 1]).open("xb") as file:  # never over another
            file.write(authority.cert_pem.bytes())
    asyncio.run(serve(int(sys.argv[1])))
