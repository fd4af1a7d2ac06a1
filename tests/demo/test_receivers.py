"""The demo's receivers, used with the client libraries that the notifiers use."""

from __future__ import annotations

import asyncio
import ssl
from email.message import EmailMessage

import aiosmtplib
import httpx
import pytest
import trustme

from service.demo import receivers
from service.demo.receivers import Answer, HttpReceiver, MailReceiver, Reply


def _mail() -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "tidewatch@localhost", "on-call@localhost", "db-7 is unusual – look"
    mail.set_content("plain words")
    mail.add_alternative("<b>bold words</b>", subtype="html")
    return mail


async def test_what_is_posted_is_recorded() -> None:
    async with HttpReceiver() as slack, httpx.AsyncClient() as client:
        answer = await client.post(slack.url + "services/T0", json={"text": "hé"}, headers={"Idempotency-Key": "a1"})
        assert answer.status_code == 200
        (posted,) = await slack.wait_for()
        assert posted.json() == {"text": "hé"}
        assert posted.path == "/services/T0"
        assert posted.headers["Idempotency-Key"] == "a1"


async def test_the_plan_is_followed_and_then_everything_is_taken() -> None:
    async with HttpReceiver() as hook, httpx.AsyncClient() as client:
        hook.plan(Answer(429, retry_after=7), Answer(500), Answer(does="drop"))
        first = await client.post(hook.url, content=b"1")
        assert (first.status_code, first.headers["Retry-After"]) == (429, "7")
        assert (await client.post(hook.url, content=b"2")).status_code == 500
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(hook.url, content=b"3")
        assert (await client.post(hook.url, content=b"4")).status_code == 200
        assert [(posted.body, posted.status) for posted in hook.attempts] == [(b"1", 429), (b"2", 500), (b"3", None), (b"4", 200)]
        assert [posted.body for posted in hook.accepted] == [b"4"]


async def test_a_plan_for_each_message_does_not_depend_on_the_order_they_come_in() -> None:
    async with HttpReceiver() as hook, httpx.AsyncClient() as client:
        hook.plan_each(Answer(500), Answer(503))
        got = [(await client.post(hook.url, headers={"Idempotency-Key": key})).status_code for key in "aababbb"]
        assert got == [500, 503, 500, 200, 503, 200, 200]
        assert (await client.post(hook.url)).status_code == 200


async def test_a_hanging_receiver_hangs_until_it_is_closed() -> None:
    async with HttpReceiver() as hook, httpx.AsyncClient() as client:
        hook.plan(Answer(does="hang"))
        with pytest.raises(httpx.ReadTimeout):
            await client.post(hook.url, content=b"x", timeout=0.3)
        hook.plan(Answer(does="hang"))
        waiting = asyncio.create_task(client.post(hook.url, content=b"y", timeout=60))
        await asyncio.sleep(0.2)  # long enough to be answered, if anything answered
        assert not waiting.done()
    with pytest.raises(httpx.TransportError):
        await waiting


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "KEEP", 3)
    async with HttpReceiver() as hook, httpx.AsyncClient() as client:
        for number in range(5):
            await client.post(hook.url, content=str(number).encode())
        assert [posted.body for posted in hook.attempts] == [b"2", b"3", b"4"]
        too_large = await client.post(hook.url, content=b"x" * (receivers.MAX_BYTES + 1))
        assert too_large.status_code == 413


async def test_a_mail_is_recorded_in_both_forms() -> None:
    async with MailReceiver() as inbox:
        await aiosmtplib.send(_mail(), hostname=inbox.host, port=inbox.port, start_tls=False)
        (mail,) = await inbox.wait_for()
        assert mail.sender == "tidewatch@localhost"
        assert list(mail.recipients) == ["on-call@localhost"]
        assert mail.message["Subject"] == "db-7 is unusual – look"
        assert mail.text("plain").strip() == "plain words"
        assert "bold words" in mail.text("html")


async def test_mails_are_refused_as_planned() -> None:
    async with MailReceiver() as inbox:
        inbox.plan(Reply("451 4.3.0 try again later"), Reply(does="drop"), Reply("550 5.1.1 nobody here"))
        with pytest.raises(aiosmtplib.SMTPDataError) as later:
            await aiosmtplib.send(_mail(), hostname=inbox.host, port=inbox.port, start_tls=False)
        assert later.value.code == 451
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await aiosmtplib.send(_mail(), hostname=inbox.host, port=inbox.port, start_tls=False)
        with pytest.raises(aiosmtplib.SMTPDataError) as never:
            await aiosmtplib.send(_mail(), hostname=inbox.host, port=inbox.port, start_tls=False)
        assert never.value.code == 550
        assert inbox.accepted == []
        assert [mail.reply for mail in inbox.attempts] == ["451 4.3.0 try again later", None, "550 5.1.1 nobody here"]


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # one thing at a time: TLS has its own test
async def test_a_login_is_checked() -> None:
    async with MailReceiver(credentials=("tide", "secret")) as inbox:
        with pytest.raises(aiosmtplib.SMTPException):
            await aiosmtplib.send(_mail(), hostname=inbox.host, port=inbox.port, start_tls=False)
        with pytest.raises(aiosmtplib.SMTPAuthenticationError):
            await aiosmtplib.send(_mail(), hostname=inbox.host, port=inbox.port, start_tls=False, username="tide", password="wrong")
        assert inbox.attempts == []
        await aiosmtplib.send(_mail(), hostname=inbox.host, port=inbox.port, start_tls=False, username="tide", password="secret")
        assert len(await inbox.wait_for()) == 1


async def test_both_speak_tls() -> None:
    authority = trustme.CA()
    server_side, client_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    authority.configure_trust(client_side)
    async with HttpReceiver(tls=server_side) as hook, httpx.AsyncClient(verify=client_side) as client:
        assert hook.url.startswith("https://")
        assert (await client.post(hook.url, content=b"x")).status_code == 200
    async with MailReceiver(tls=server_side) as inbox:
        with pytest.raises(aiosmtplib.SMTPException):
            await aiosmtplib.send(_mail(), hostname=inbox.host, port=inbox.port, start_tls=False)
        await aiosmtplib.send(_mail(), hostname=inbox.host, port=inbox.port, start_tls=True, tls_context=client_side)
        assert len(await inbox.wait_for()) == 1


async def test_waiting_for_what_does_not_come_ends() -> None:
    async with MailReceiver() as inbox, HttpReceiver() as hook:
        with pytest.raises(TimeoutError):
            await inbox.wait_for(seconds=0.05)
        with pytest.raises(TimeoutError):
            await hook.wait_for(seconds=0.05)
