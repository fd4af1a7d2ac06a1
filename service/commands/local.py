"""``tidewatch local``: a Kafka and an Elasticsearch on this machine, started, stopped and shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import LocalStackError
from service.terminal import console, listing, print_text, progress_bar, working

if TYPE_CHECKING:
    from service.local.stack import LocalStack

DEFAULT_STATE = Path(".tidewatch/local")

StateDir = Annotated[Path, typer.Option("--state-dir", help="Folder of their data, settings and logs.")]

local_app = typer.Typer(
    help="A real Kafka and Elasticsearch on this machine; needs no Docker and no Java.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add this file's commands to ``app``."""
    app.add_typer(local_app, name="local")


@local_app.command(epilog="Example: tidewatch local install")
def install() -> None:
    """Download both servers (about 100 MB) without starting them. Does nothing when they are there."""
    with _extra_packages():
        from service.local import jars
    with progress_bar() as show:
        jars.install(show)


@local_app.command(epilog="Example: tidewatch local up --kafka-port 0 --elasticsearch-port 0")
def up(
    state_dir: StateDir = DEFAULT_STATE,
    kafka_port: Annotated[int, typer.Option(min=0, max=65535, help="Kafka's port on the loopback; 0 picks a free one.")] = 9092,
    elasticsearch_port: Annotated[int, typer.Option(min=0, max=65535, help="Elasticsearch's port; 0 picks a free one.")] = 9200,
) -> None:
    """Start both servers and leave them running. The first start downloads them (about 100 MB)."""
    stack = _stack(state_dir, kafka_port, elasticsearch_port)
    with progress_bar() as show:
        stack.up(show, detach=True)
    state = "" if state_dir == DEFAULT_STATE else f" --state-dir {state_dir}"
    print_text("Kafka and Elasticsearch are running. To use them in this shell:")
    console.out(f"  export TIDEWATCH_KAFKA__BOOTSTRAP_SERVERS={stack.kafka_servers}", highlight=False)
    console.out(f"  export TIDEWATCH_ELASTICSEARCH__URL={stack.elasticsearch_url}", highlight=False)
    print_text(f"Stop them with: tidewatch local down{state}")


@local_app.command(epilog="Example: tidewatch local down --delete-data")
def down(
    state_dir: StateDir = DEFAULT_STATE,
    delete_data: Annotated[bool, typer.Option("--delete-data", help="Also delete their data, settings and logs.")] = False,
) -> None:
    """Stop both servers. Their data and logs stay, unless --delete-data is given."""
    stack = _stack(state_dir)
    if not state_dir.exists():
        print_text(f"Nothing to stop: there is no local stack in {state_dir}.")
        return
    with working("Stopping Elasticsearch and Kafka"):
        stack.down()
    if delete_data:
        stack.delete_data()
    print_text("Stopped, and the data deleted." if delete_data else f"Stopped. Data and logs are kept in {state_dir}.")


@local_app.command(epilog="Example: tidewatch local status --state-dir .tidewatch/local")
def status(state_dir: StateDir = DEFAULT_STATE) -> None:
    """Show where both servers are and whether they answer. Exit status 1 when one does not."""
    servers = _stack(state_dir).status()
    table = listing("server", "at", "pid", "state", "log")
    for server in servers:
        state = "healthy" if server.healthy else "not answering" if server.pid else "stopped"
        table.add_row(server.name, server.endpoint, str(server.pid or ""), state, str(server.log))
    console.print(table)
    if not all(server.healthy for server in servers):
        raise typer.Exit(1)


def _stack(state_dir: Path, kafka_port: int = 0, elasticsearch_port: int = 0) -> LocalStack:
    with _extra_packages():
        from service.local.stack import LocalStack
    return LocalStack(state_dir, kafka_port=kafka_port, elasticsearch_port=elasticsearch_port)


@contextmanager
def _extra_packages() -> Iterator[None]:
    """Around late imports: without the extra packages every other command still works."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise LocalStackError(
            f"The local servers need the package {error.name}, which is not installed.", hint="Run: pip install 'tidewatch[local]'"
        ) from error
