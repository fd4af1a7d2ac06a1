"""The routes. Reading asks Elasticsearch; writing writes commands and nothing else."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Query, Security
from fastapi.security import HTTPBearer

from service.alerts.control.operators import Operators
from service.alerts.history.reader import AlertHistory, history_query
from service.api import models
from service.api.auth import TokenRequired
from service.api.problems import described, install
from service.clock import Clock
from service.errors import NotFound

PREFIX = "/api/v1"
OPEN_PATHS = frozenset({f"{PREFIX}/health", f"{PREFIX}/openapi.json"})
DAY_MS = 86_400_000

AlertId = Annotated[str, Path(pattern=r"^[0-9a-f]{4,32}$", description="The alert's id, or an unambiguous beginning of it.")]
SilenceId = Annotated[
    str, Path(pattern=r"^[0-9A-Za-z-]{4,64}$", description="The silence's id, or an unambiguous beginning of it.")
]


def make_app(history: AlertHistory, people: Operators, *, token: str | None, clock: Clock) -> FastAPI:
    """The API as an ASGI application. ``people`` must be started by the caller."""
    app = FastAPI(
        title="Tidewatch",
        version="1",
        summary="The alert history, and what people say about it.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
    )
    install(app)
    app.include_router(_health(history), prefix=PREFIX)
    # The middleware decides; the dependency only writes the scheme into the description.
    bearer = [Security(HTTPBearer(auto_error=False))]
    for router in (_alerts(history, people), _judgements(people, clock), _silences(people, clock)):
        app.include_router(router, prefix=PREFIX, dependencies=bearer, responses=described(401, 422, 502, 503))
    app.add_middleware(TokenRequired, token=token, open_paths=OPEN_PATHS)
    return app


def _health(history: AlertHistory) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health", responses=described(502, 503))
    async def health() -> models.HealthShown:
        """Whether the history can be reached."""
        return models.HealthShown(status="ok", history=await history.reach())

    return router


def _alerts(history: AlertHistory, people: Operators) -> APIRouter:
    router = APIRouter(tags=["alerts"])

    @router.get("/alerts")
    async def list_alerts(asked: Annotated[models.AlertFilters, Query()]) -> models.AlertPage:
        """Alerts, newest first."""
        query = history_query(**asked.bounds(), status=asked.status, told_only=asked.show == "told")
        page = await history.page(query, asked.limit, models.position(asked.after))
        return models.AlertPage(alerts=page.documents, next=models.cursor(page.next))

    @router.get("/alerts/{alert_id}", responses=described(404))
    async def show_alert(alert_id: AlertId) -> models.AlertShown:
        """One alert with its transitions, the messages about it, and its judgements."""
        found = await history.show(alert_id)
        if found is None:
            raise NotFound(f"There is no alert whose id begins with {alert_id!r}, or there are several.")
        said = people.said_of(found.alert["tidewatch"]["alert_id"])
        return models.AlertShown(
            alert=found.alert,
            events=found.events,
            notifications=found.notifications,
            judgements=[models.MarkShown.of(each) for each in said],
        )

    @router.get("/events")
    async def list_events(asked: Annotated[models.EventFilters, Query()]) -> models.EventPage:
        """Transitions of alerts, newest first."""
        query = history_query(**asked.bounds(), alert_id=asked.alert_id, action=asked.action)
        page = await history.page(query, asked.limit, models.position(asked.after), of="events")
        return models.EventPage(events=page.documents, next=models.cursor(page.next))

    return router


def _judgements(people: Operators, clock: Clock) -> APIRouter:
    router = APIRouter(tags=["feedback"])
    writes: dict[int | str, dict[str, Any]] = described(400, 403, 404, 411, 413)

    @router.post("/alerts/{alert_id}/acknowledgement", status_code=202, responses=writes)
    async def acknowledge(alert_id: AlertId, said: models.Acknowledgement) -> models.Accepted:
        """Take an alert: its receivers are no longer reminded of it."""
        command = await people.acknowledge(alert_id, author=said.author, note=said.note)
        return models.Accepted(alert_id=command.alert_id, author=command.author)

    @router.post("/alerts/{alert_id}/judgement", status_code=201, responses=writes)
    async def judge(alert_id: AlertId, said: models.MarkRequest) -> models.MarkShown:
        """Mark an alert true or false, or take that back (``none``)."""
        mark = await people.mark(
            alert_id, said.verdict, author=said.author, note=said.note, suppress=said.suppress, entity=said.entity
        )
        return models.MarkShown.of(mark)

    @router.get("/alerts/{alert_id}/judgement/preview", responses=described(404))
    async def preview(alert_id: AlertId, asked: Annotated[models.PreviewFilters, Query()]) -> models.PreviewShown:
        """Which alerts a suppressing false mark would have kept quiet; of the last 30 days unless told otherwise."""
        since = clock.now_ms() - 30 * DAY_MS if asked.since is None else models.moment(asked.since)
        found = await people.preview(alert_id, since=since, entity=asked.entity)
        return models.PreviewShown(entity=found.entity, metrics=list(found.metrics), looked_at=found.looked_at, alerts=found.alerts)

    return router


def _silences(people: Operators, clock: Clock) -> APIRouter:
    router = APIRouter(tags=["silences"])

    @router.get("/silences")
    async def list_silences(asked: Annotated[models.SilenceFilters, Query()]) -> models.SilenceList:
        """Silences in force and to come, by start."""
        now = clock.now_ms()
        found = people.silences(over=asked.show == "all")
        return models.SilenceList(silences=[models.SilenceShown.of(each, now) for each in found])

    @router.post("/silences", status_code=201, responses=described(400, 403, 411, 413))
    async def add_silence(said: models.NewSilence) -> models.SilenceShown:
        """Tell nobody of alerts that match. They are still stored, and marked as silenced."""
        begin = None if said.starts_at is None else models.moment(said.starts_at)
        made = await people.silence(said.match, seconds=said.seconds, author=said.author, comment=said.comment, starts_at=begin)
        return models.SilenceShown.of(made, clock.now_ms())

    @router.post("/silences/{silence_id}/expiry", responses=described(400, 403, 404, 411, 413))
    async def expire(silence_id: SilenceId, said: models.AuthoredRequest) -> models.SilenceShown:
        """End a silence now."""
        return models.SilenceShown.of(await people.expire(silence_id, author=said.author), clock.now_ms())

    return router
