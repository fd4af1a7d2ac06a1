"""Slack incoming webhooks, as Block Kit within its limits (https://docs.slack.dev/reference/block-kit/blocks)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from service.alerts.messages.circumstances import NOTHING_KNOWN, PLAIN, ByAlert
from service.alerts.messages.facts import Fact
from service.alerts.messages.groups import opening, rank_first, summary_title
from service.alerts.messages.message import Message, compose
from service.alerts.messages.rendering import Template, context, one_line, slack_escape
from service.alerts.receivers.http import Post
from service.domain import Alert
from service.settings import SlackReceiver

HEADER_LIMIT = 150
TEXT_LIMIT = 3000
BLOCK_LIMIT = 50
ALERTS_SHOWN = 10
BRIEF = ("Now", "Now also", "Who else", "Missing", "Runbook", "Owner")  # of an alert among several
FACTS_A_BLOCK = 6  # so that one long fact does not cut off the others
SIGNS = {"critical": "🔴", "warning": "🟠", "info": "🔵", "resolved": "✅"}


class SlackNotifier:
    """``Notifier`` for one incoming webhook. Slack has no idempotency key: a try that was cut off may appear twice."""

    def __init__(self, receiver: SlackReceiver, *, history_url: str | None = None, timeout: float = 10.0) -> None:
        self.name = receiver.name
        self._history_url = history_url
        self._template = Template("slack", receiver.name, file=receiver.template) if receiver.template else None
        self._post = Post(receiver.name, receiver.url, receiver.url_file, allow_http=receiver.allow_http, timeout=timeout)

    async def send(self, alerts: Sequence[Alert], *, key: str, circumstances: ByAlert = NOTHING_KNOWN) -> None:
        """Post one message about ``alerts``."""
        if self._template is None:
            content = payload(alerts, circumstances, self._history_url)
        else:
            content = templated(self._template.render(**context(alerts, key, circumstances, ALERTS_SHOWN, self._history_url)))
        body = msgspec.json.encode(content)
        await self._post.send(body, {"content-type": "application/json", "idempotency-key": key})

    async def close(self) -> None:
        """Close the connections."""
        await self._post.close()


def payload(alerts: Sequence[Alert], circumstances: ByAlert = NOTHING_KNOWN, history_url: str | None = None) -> dict[str, Any]:
    """The webhook's JSON: ``text`` for notifications and screen readers, ``blocks`` for the message."""
    ordered = rank_first(alerts, circumstances)
    messages = [compose(alert, circumstances.get(alert.alert_id, PLAIN), history_url) for alert in ordered[:ALERTS_SHOWN]]
    if len(ordered) == 1:
        blocks = _single(messages[0])
        text = f"{_sign(messages[0])} {messages[0].title}"
    else:
        text = summary_title(ordered, circumstances)
        blocks = [_header(f"{_sign(messages[0])} {text}"), _section(slack_escape(opening(ordered, circumstances)))]
        blocks += [_section(_brief(message)) for message in messages]
        if len(ordered) > ALERTS_SHOWN:
            blocks.append(_context(f"… and {len(ordered) - ALERTS_SHOWN:,} more; the history has them all."))
    return {"text": slack_escape(_cut(text, TEXT_LIMIT)), "blocks": blocks[:BLOCK_LIMIT]}


def templated(text: str) -> dict[str, Any]:
    """The webhook's JSON of a receiver's own template: its text, in as many sections as Slack's limit needs."""
    text = text.strip() or " "
    pieces = [text[at : at + TEXT_LIMIT] for at in range(0, len(text), TEXT_LIMIT)]
    return {"text": _cut(text, TEXT_LIMIT), "blocks": [_section(piece) for piece in pieces[:BLOCK_LIMIT]]}


def _single(message: Message) -> list[dict[str, Any]]:
    blocks = [_header(f"{_sign(message)} {message.title}"), _section(slack_escape(message.sentence))]
    if message.metrics:
        lines = [
            f"• *{slack_escape(m.name)}* {slack_escape(m.words.removeprefix(m.name).strip())}  `{m.spark}`" for m in message.metrics
        ]
        blocks.append(_section("\n".join([f"*{message.stands_out}*", *lines])))
    lines = [f"*{fact.label}*: {_bold(fact)}" for fact in message.facts]
    if message.voted:
        lines.append(f"*Detectors*: {slack_escape(message.voted)}")
    blocks += [_context("\n".join(lines[at : at + FACTS_A_BLOCK])) for at in range(0, len(lines), FACTS_A_BLOCK)]
    link = [f"<{_url(message.history_url)}|history>"] if message.history_url else []
    blocks.append(_context(" · ".join([*link, *(f"{each.label}: `{slack_escape(each.line)}`" for each in message.commands)])))
    return blocks


def _bold(fact: Fact) -> str:
    text = slack_escape(one_line(fact.text))
    return f"*{text}*" if fact.matters else text


def _brief(message: Message) -> str:
    line = f"{_sign(message)} *{slack_escape(message.title)}*\n{slack_escape(message.sentence)}"
    told = [f"{fact.label}: {_bold(fact)}" for fact in message.facts if fact.label in BRIEF]
    if told:
        line += "\n" + " · ".join(told)
    if message.metrics and message.metrics[0].spark:
        line += f"\n`{message.metrics[0].spark}` {slack_escape(message.metrics[0].name)}"
    return line


def _url(url: str | None) -> str:
    return (url or "").replace("|", "%7C").replace(">", "%3E").replace("<", "%3C")


def _sign(message: Message) -> str:
    return SIGNS.get("resolved" if message.status == "resolved" else message.severity, "🔵")


def _header(text: str) -> dict[str, Any]:
    return {"type": "header", "text": {"type": "plain_text", "text": _cut(text, HEADER_LIMIT), "emoji": True}}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": _cut(text, TEXT_LIMIT)}}


def _context(text: str) -> dict[str, Any]:
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": _cut(text, TEXT_LIMIT)}]}


def _cut(text: str, limit: int) -> str:
    text = text or " "
    return text if len(text) <= limit else text[: limit - 1] + "…"
