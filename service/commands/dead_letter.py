"""``tidewatch dead-letter``: which records were rejected, why, and how to write them back once the cause is fixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.clock import SystemClock
from service.commands.common import ConfigOption, JsonOption, Since, parse_moment, read_settings, run_async
from service.errors import NotFound
from service.settings import Settings
from service.terminal import console, listing, print_json, print_text

if TYPE_CHECKING:
    from service.alerts.history.elasticsearch_client import Operation
    from service.state.dead_letter import StoredDeadLetter

Reason = Annotated[str | None, typer.Option(help="Only those rejected for this reason; * is a wildcard.", show_default=False)]
Key = Annotated[str | None, typer.Option(help="Only those with this key, usually the entity; * is a wildcard.", show_default=False)]

dead_letter_app = typer.Typer(
    help="Show the records that were rejected, and write them back.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.add_typer(dead_letter_app, name="dead-letter")


@dead_letter_app.command("list", epilog="Example: tidewatch dead-letter list --reason not-json --since 6h")
def list_letters(
    reason: Reason = None,
    key: Key = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Show the newest this many; all are counted.")] = 20,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Count dead letters by reason, and show the newest."""
    settings = read_settings(config, quiet=True)
    letters = run_async(_find(settings, reason, key, since))
    counts = Counter(letter.reason for letter in letters)
    if as_json:
        print_json({"count": counts, "letters": [_fields(letter) for letter in letters[-limit:]]})
        return
    if not letters:
        print_text("No dead letter matches.")
        return
    totals = listing("reason", "count")
    for name, count in counts.most_common():
        totals.add_row(name, f"{count:,}")
    console.print(totals)
    table = listing("at", "reason", "key", "from", "why", whole={"at"})
    for letter in letters[-limit:]:
        fields = _fields(letter)
        table.add_row(fields["at"], fields["reason"], fields["key"] or "–", fields["from"], fields["why"])
    console.print(table)


@dead_letter_app.command("show", epilog="Example: tidewatch dead-letter show 0:41")
def show_letter(
    at: Annotated[str, typer.Argument(help="PARTITION:OFFSET, as `tidewatch dead-letter list` shows it.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one dead letter with its whole value."""
    letters = run_async(_find(read_settings(config, quiet=True), None, None, None))
    found = next((letter for letter in letters if letter.at == at), None)
    if found is None:
        raise NotFound(f"There is no dead letter at {at!r}.", hint="See: tidewatch dead-letter list")
    fields = {**_fields(found), "value": (found.record.value or b"").decode(errors="backslashreplace")}
    if as_json:
        print_json(fields)
        return
    for name, value in fields.items():
        print_text(f"{name}: {value}")


@dead_letter_app.command("replay", epilog="Example: tidewatch dead-letter replay --reason unknown-entity --since 1d --yes")
def replay_letters(
    reason: Reason = None,
    key: Key = None,
    since: Since = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without it, only shows what would be done.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write rejected metrics messages back to their partition, and refused documents to Elasticsearch, once the cause is fixed.

    Rows older than stream.allowed_lateness_seconds are counted and dropped, as always. The dead letters stay.
    """
    from service.alerts.history.letters import DOCUMENT_REFUSED, operation_of
    from service.state.dead_letter_writer import send_again

    settings = read_settings(config, quiet=True)
    letters = run_async(_find(settings, reason, key, since))
    topic = settings.kafka.topics.metrics
    whole = [letter for letter in letters if not letter.truncated]
    able = [letter.record for letter in whole if letter.record.topic == topic and letter.record.partition >= 0]
    stored = (operation_of(letter.record) for letter in whole if letter.reason == DOCUMENT_REFUSED)
    documents = [operation for operation in stored if operation is not None]
    left = len(letters) - len(able) - len(documents)
    also = f" {left:,} cannot be written back: they were truncated, or came from another topic." if left else ""
    if not yes:
        store = f" and {len(documents):,} documents to Elasticsearch" if documents else ""
        print_text(f"{len(able):,} messages would be written back to {topic}{store}.{also} Add --yes to do it.")
        return
    run_async(send_again(settings.kafka, able))
    refused = run_async(_store_again(settings, documents)) if documents else 0
    store = f" and {len(documents) - refused:,} documents to Elasticsearch" if documents else ""
    again = f" Elasticsearch still refuses {refused:,}; `tidewatch dead-letter list` says why." if refused else ""
    print_text(f"Wrote {len(able):,} messages back to {topic}{store}.{also}{again}")


async def _store_again(settings: Settings, documents: Sequence[Operation]) -> int:
    """Write documents to the store; how many it still refuses."""
    from service.alerts.history.elasticsearch import ElasticsearchAlertStore

    refused: list[str] = []
    store = ElasticsearchAlertStore(settings.elasticsearch, on_refused=lambda _operation, why: refused.append(why))
    try:
        await store.write_again(documents)
    finally:
        await store.close()
    return len(refused)


async def _find(settings: Settings, reason: str | None, key: str | None, since: str | None) -> list[StoredDeadLetter]:
    """The dead letters that match, oldest first."""
    from service.sources.topic_range import read_range
    from service.state.dead_letter import read_dead_letter

    begin = parse_moment(since, SystemClock().now_ms())
    found: list[tuple[int, StoredDeadLetter]] = []
    async for records in read_range(settings.kafka, settings.kafka.topics.dead_letter, since_ms=begin, last_records=None):
        for record in records:
            letter = read_dead_letter(record)
            if _matches(letter.reason, reason) and _matches((record.key or b"").decode(errors="replace"), key):
                found.append((record.timestamp, letter))
    return [letter for _, letter in sorted(found, key=lambda one: one[0])]


def _matches(text: str, pattern: str | None) -> bool:
    return pattern is None or fnmatchcase(text, pattern)


def _fields(letter: StoredDeadLetter) -> dict[str, Any]:
    record = letter.record
    return {
        "at": letter.at,
        "reason": letter.reason,
        "key": None if record.key is None else record.key.decode(errors="backslashreplace"),
        "from": f"{record.topic} {record.partition}:{record.offset}",
        "why": letter.message,
    }
