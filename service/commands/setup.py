"""``tidewatch setup``: creates what the service needs on Kafka and Elasticsearch."""

from __future__ import annotations

import typer

from service.commands.common import ConfigOption, read_settings, run_async
from service.settings import Settings, without_password
from service.terminal import console, listing


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.command("setup", epilog="Example: tidewatch setup --config tidewatch.yaml")(setup)


def setup(config: ConfigOption = None) -> None:
    """Create the topics and the index templates. Safe to repeat: what exists stays as it is."""
    settings = read_settings(config, quiet=True)
    table = listing("what", "state", "detail")
    for row in run_async(_setup(settings)):
        table.add_row(*row)
    console.print(table)


async def _setup(settings: Settings) -> list[tuple[str, str, str]]:
    from service.app import build_alert_store
    from service.state.topics import create_topics

    rows = [(f"topic {topic.name}", str(topic.outcome), topic.detail) for topic in await create_topics(settings.kafka)]
    store = build_alert_store(settings)
    try:
        await store.install_templates()
    finally:
        await store.close()
    prefix = settings.elasticsearch.index_prefix
    return [*rows, (f"index templates {prefix}-*", "installed", without_password(settings.elasticsearch.url))]
