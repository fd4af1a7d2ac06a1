"""The routes. Reads query Elasticsearch; writes only add commands to the control topic."""

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
from service.errors import BrokerUnavailable, NotFound
from service.observability.health import Health

PREFIX = "/api/v1"
OPEN_PATHS = frozenset({f"{PREFIX}/health", f"{PREFIX}/openapi.json"})
DAY_MS = 86_400_000

AlertId = Annotated[
    str,
    Path(pattern=r"^[0-9a-f]{4,32}$", description="The alert's id, or its first characters, as long as only one alert has them."),
]
SilenceId = Annotated[
    str,
    Path(pattern=r"^[0-9A-Za-z-]{4,64}$", description="The silence's id, or its first characters, as long as only one has them."),
]


def make_app(history: AlertHistory, operators: Operators, *, token: str | None, health: Health, clock: Clock) -> FastAPI:
    """The API as an ASGI application. The caller starts ``operators``."""
    app = FastAPI(
        title="Tidewatch",
        version="1",
        summary="The alert history, and what operators do about alerts: acknowledge, mark, silence.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # its pages load scripts from other servers
        redoc_url=None,
    )
    install(app)
    app.include_router(_health(history, health), prefix=PREFIX)
    # The middleware checks the token; the dependency only adds the scheme to the description.
    bearer = [Security(HTTPBearer(auto_error=False))]
    for router in (_alerts(history, operators), _judgements(operators, clock), _silences(operators, clock)):
        app.include_router(router, prefix=PREFIX, dependencies=bearer, responses=described(401, 422, 502, 503))
    app.add_middleware(TokenRequired, token=token, open_paths=OPEN_PATHS)
    return app


def _health(history: AlertHistory, health: Health) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health", responses=described(502, 503))
    async def show_health() -> models.HealthShown:
        """Whether the API works and the history can be reached."""
        if not health.tasks_work():
            raise BrokerUnavailable("A background task of the API failed and is started again; its log names the cause.")
        return models.HealthShown(status="ok", history=await history.reach())

    return router


def _alerts(history: AlertHistory, operators: Operators) -> APIRouter:
    router = APIRouter(tags=["alerts"])

    @router.get("/alerts")
    async def list_alerts(filters: Annotated[models.AlertFilters, Query()]) -> models.AlertPage:
        """Alerts, newest first."""
        query = history_query(**filters.bounds(), status=filters.status, told_only=filters.show == "told")
        page = await history.page(query, filters.limit, models.position(filters.after))
        return models.AlertPage(alerts=page.documents, next=models.cursor(page.next))

    @router.get("/alerts/{alert_id}", responses=described(404))
    async def show_alert(alert_id: AlertId) -> models.AlertShown:
        """One alert with its transitions, the messages about it, and its marks."""
        found = await history.show(alert_id)
        if found is None:
            raise NotFound(f"There is no alert whose id begins with {alert_id!r}, or there are several.")
        return models.AlertShown(
            alert=found.alert,
            events=found.events,
            notifications=found.notifications,
            judgements=[models.MarkShown.of(mark) for mark in operators.marks_of(found.alert["tidewatch"]["alert_id"])],
        )

    @router.get("/events")
    async def list_events(filters: Annotated[models.EventFilters, Query()]) -> models.EventPage:
        """Transitions of alerts, newest first."""
        query = history_query(**filters.bounds(), alert_id=filters.alert_id, action=filters.action)
        page = await history.page(query, filters.limit, models.position(filters.after), of="events")
        return models.EventPage(events=page.documents, next=models.cursor(page.next))

    return router


def _judgements(operators: Operators, clock: Clock) -> APIRouter:
    router = APIRouter(tags=["feedback"])
    writes: dict[int | str, dict[str, Any]] = described(400, 403, 404, 411, 413)

    @router.post("/alerts/{alert_id}/acknowledgement", status_code=202, responses=writes)
    async def acknowledge(alert_id: AlertId, command: models.Acknowledgement) -> models.Accepted:
        """Acknowledge an alert: its receivers get no more reminders of it."""
        written = await operators.acknowledge(alert_id, author=command.author, note=command.note)
        return models.Accepted(alert_id=written.alert_id, author=written.author)

    @router.post("/alerts/{alert_id}/judgement", status_code=201, responses=writes)
    async def judge(alert_id: AlertId, command: models.MarkRequest) -> models.MarkShown:
        """Mark an alert as false or true, or take every mark back (``none``)."""
        mark = await operators.mark(
            alert_id, command.verdict, author=command.author, note=command.note, suppress=command.suppress, entity=command.entity
        )
        return models.MarkShown.of(mark)

    @router.get("/alerts/{alert_id}/judgement/preview", responses=described(404))
    async def preview(alert_id: AlertId, filters: Annotated[models.PreviewFilters, Query()]) -> models.PreviewShown:
        """Past alerts that a suppressing false mark would have suppressed; of the last 30 days by default."""
        since = clock.now_ms() - 30 * DAY_MS if filters.since is None else models.moment(filters.since)
        found = await operators.preview(alert_id, since=since, entity=filters.entity)
        return models.PreviewShown(entity=found.entity, metrics=list(found.metrics), looked_at=found.looked_at, alerts=found.alerts)

    return router


def _silences(operators: Operators, clock: Clock) -> APIRouter:
    router = APIRouter(tags=["silences"])

    @router.get("/silences")
    async def list_silences(filters: Annotated[models.SilenceFilters, Query()]) -> models.SilenceList:
        """Silences that are in force or still to begin, by start."""
        now = clock.now_ms()
        found = operators.silences(over=filters.show == "all")
        return models.SilenceList(silences=[models.SilenceShown.of(each, now) for each in found])

    @router.post("/silences", status_code=201, responses=described(400, 403, 411, 413))
    async def add_silence(command: models.NewSilence) -> models.SilenceShown:
        """Send nothing about alerts that match. They are still stored, and marked as silenced."""
        begin = None if command.starts_at is None else models.moment(command.starts_at)
        made = await operators.silence(
            command.match, seconds=command.seconds, author=command.author, comment=command.comment, starts_at=begin
        )
        return models.SilenceShown.of(made, clock.now_ms())

    @router.post("/silences/{silence_id}/expiry", responses=described(400, 403, 404, 411, 413))
    async def expire(silence_id: SilenceId, command: models.AuthoredRequest) -> models.SilenceShown:
        """End a silence now. Alerts that still fire are notified again."""
        return models.SilenceShown.of(await operators.expire(silence_id, author=command.author), clock.now_ms())

    return router
