"""``tidewatch local``: the local Kafka and Elasticsearch from the command line. Errors are raised as ``LocalStackError``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.errors import LocalStackError
from service.local.progress import shown_on

if TYPE_CHECKING:
    from service.local.stack import LocalStack

DEFAULT_STATE = Path(".tidewatch/local")

local_app = typer.Typer(
    help="A real Kafka and a real Elasticsearch on this machine, from pip alone.", no_args_is_help=True, rich_markup_mode=None
)

StateDir = Annotated[Path, typer.Option("--state-dir", help="Where data, settings and logs are kept.")]


def _stack(state_dir: Path, kafka_port: int = 0, elasticsearch_port: int = 0) -> LocalStack:
    with _extra_packages():
        from service.local.stack import LocalStack
    return LocalStack(state_dir, kafka_port=kafka_port, elasticsearch_port=elasticsearch_port)


@contextmanager
def _extra_packages() -> Iterator[None]:
    """Around late imports: an installation without the extra packages still has every other command."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise LocalStackError(
            f"The local servers need the package {error.name}, which is not installed.", hint="Run: pip install 'tidewatch[local]'"
        ) from error


@local_app.command(epilog="Example: tidewatch local install")
def install() -> None:
    """Download both servers (about 100 MB) without starting them; does nothing when they are there."""
    with _extra_packages():
        from service.local import jars
    with shown_on(Console(stderr=True)) as progress:
        jars.install(progress)


@local_app.command(epilog="Example: tidewatch local up --kafka-port 0 --elasticsearch-port 0")
def up(
    state_dir: StateDir = DEFAULT_STATE,
    kafka_port: Annotated[int, typer.Option(min=0, max=65535, help="Kafka's port on the loopback; 0 takes a free one.")] = 9092,
    elasticsearch_port: Annotated[int, typer.Option(min=0, max=65535, help="Elasticsearch's port; 0 takes a free one.")] = 9200,
) -> None:
    """Start both servers (downloading them the first time, about 100 MB) and leave them running."""
    stack = _stack(state_dir, kafka_port, elasticsearch_port)
    with shown_on(Console(stderr=True)) as progress:
        stack.up(progress, detach=True)
    console = Console(soft_wrap=True, highlight=False)
    console.print("Kafka and Elasticsearch are up. To use them:")
    console.print(f"  export TIDEWATCH_KAFKA__BOOTSTRAP_SERVERS={stack.kafka_servers}")
    console.print(f"  export TIDEWATCH_ELASTICSEARCH__URL={stack.elasticsearch_url}")
    again = "" if state_dir == DEFAULT_STATE else f" --state-dir {state_dir}"
    console.print(f"Stop them with: tidewatch local down{again}")


@local_app.command(epilog="Example: tidewatch local down --delete-data")
def down(
    state_dir: StateDir = DEFAULT_STATE,
    delete_data: Annotated[bool, typer.Option("--delete-data", help="Also delete the data, settings and logs.")] = False,
) -> None:
    """Stop both servers; their data is kept unless told otherwise."""
    stack = _stack(state_dir)
    console = Console(soft_wrap=True, highlight=False)
    if not state_dir.exists():
        console.print(f"Nothing to stop: there is no local stack in {state_dir}.")
        return
    with console.status("Stopping Elasticsearch and Kafka"):
        stack.down()
    if delete_data:
        stack.delete_data()
    console.print("Stopped, and its data deleted." if delete_data else f"Stopped; data and logs are kept in {state_dir}.")


@local_app.command(epilog="Example: tidewatch local status --state-dir .tidewatch/local")
def status(state_dir: StateDir = DEFAULT_STATE) -> None:
    """Show where both servers are and whether they answer; exit status 1 when one does not."""
    servers = _stack(state_dir).status()
    table = Table("server", "at", "pid", "state")
    table.add_column("log", overflow="fold")
    for server in servers:
        state = "healthy" if server.healthy else "not answering" if server.pid else "stopped"
        table.add_row(server.name, server.endpoint, str(server.pid or ""), state, str(server.log))
    Console().print(table)
    if not all(server.healthy for server in servers):
        raise typer.Exit(1)
