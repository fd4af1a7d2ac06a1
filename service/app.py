"""The composition root: makes the parts of the service from the settings. The only tables of components are here.

A component is named ``"module:Class"`` and imported when it is first used, so that a run without a deep detector never loads
torch. To add one, write its file and add its line to a table. For the same reason each builder imports what it connects: a query
of the alert history loads neither the detectors nor Kafka's client.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.clock import SystemClock
from service.errors import ConfigError
from service.settings import HeartbeatSettings, Settings

if TYPE_CHECKING:
    from service.alerts.control.operators import Operators
    from service.alerts.in_process import AlertManager
    from service.alerts.notify.base import Notifier
    from service.alerts.notify.dispatcher import NotificationService, OnOutcome
    from service.alerts.notify.journal import Journal
    from service.detectors.base import Detector
    from service.detectors.bundle import Bundle
    from service.observability.health import Health
    from service.observability.metrics import Metrics
    from service.runtime import Part
    from service.sources.base import Codec
    from service.stream.models import Model, Models

DETECTORS: dict[str, str] = {
    "deep": "service.detectors.members.neural.deep:DeepAnomalyDetector",
    "vae": "service.detectors.members.neural.vae:VAEAnomalyDetector",
    "autoencoder": "service.detectors.members.neural.autoencoder:AutoencoderAnomalyDetector",
    "gan": "service.detectors.members.neural.gan:GANAnomalyDetector",
    "statistical": "service.detectors.members.statistical:StatisticalAnomalyDetector",
    "mahalanobis": "service.detectors.members.mahalanobis:MahalanobisDetector",
    "metricwise": "service.detectors.members.metricwise:MetricwiseDetector",
    "departure": "service.detectors.members.departure:DepartureDetector",
    "pca_residual": "service.detectors.members.residual:PcaResidualDetector",
    "forecast": "service.detectors.members.residual:ForecastDetector",
    "autoregression": "service.detectors.members.autoregression:AutoregressionDetector",
}
CODECS: dict[str, str] = {"native": "service.sources.codecs.native:NativeCodec"}
NOTIFIERS: dict[str, str] = {
    "slack": "service.alerts.receivers.slack:SlackNotifier",
    "email": "service.alerts.receivers.email:EmailNotifier",
    "webhook": "service.alerts.receivers.webhook:WebhookNotifier",
}
STORES: dict[str, str] = {"elasticsearch": "service.alerts.history.elasticsearch:ElasticsearchAlertStore"}
HISTORIES: dict[str, str] = {"elasticsearch": "service.alerts.history.reader:AlertHistory"}

PARTS = ("scoring", "store", "notify")


def component(table: Mapping[str, str], name: str, kind: str) -> Any:
    """The class that ``table`` lists under ``name``. Raises ``ConfigError`` naming the known ones."""
    if name not in table:
        raise ConfigError(f"There is no {kind} named {name!r}.", hint=f"Known: {', '.join(sorted(table))}.")
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def make_detector(name: str, options: Mapping[str, Any]) -> Detector:
    """A new, unfitted detector: the factory that training and bundles are given.

    Raises ``ConfigError`` when there is no such detector, or it does not take these options.
    """
    made = component(DETECTORS, name, "detector")
    try:
        detector: Detector = made(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The detector {name!r} does not take these options: {error}.", hint="docs/reference/detectors.md lists its options."
        ) from error
    return detector


def open_bundle(path: Path) -> Bundle:
    """The bundle in ``path``, ready to score. Raises ``BundleError`` saying what does not fit."""
    from service.detectors.bundle import load_bundle

    return load_bundle(path, factory=make_detector)


def build_models(settings: Settings) -> Models:
    """Every model the settings name, loaded once however many rules point at it.

    Raises ``ConfigError`` when there is none, ``BundleError`` when one cannot be read.
    """
    from service.stream.models import Models

    if not settings.models:
        raise ConfigError(
            "No model is configured.", hint="Train one (`tidewatch train`) and name it under `models` in the settings."
        )
    loaded: dict[Path, Model] = {}
    for rule in settings.models:
        if rule.bundle not in loaded:
            loaded[rule.bundle] = build_model(open_bundle(rule.bundle), settings)
    names = [model.name for model in loaded.values()]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"Two bundles have the same name ({', '.join(sorted(names))}).", hint="Train one of them with another --name."
        )
    return Models([(rule.match, loaded[rule.bundle]) for rule in settings.models])


def build_model(bundle: Bundle, settings: Settings) -> Model:
    """One bundle with its windows and its detector."""
    from threadpoolctl import threadpool_limits

    from service.detectors.window_scorer import WindowScorer
    from service.detectors.windowing.early_windows import early_windows
    from service.stream.models import Model
    from service.stream.processor import StreamProcessor

    threadpool_limits(1)  # members and batches already run in parallel threads; BLAS threads of their own would only compete
    early = early_windows(bundle.scaler, bundle.early_change)
    processor = StreamProcessor(bundle.schema, window=bundle.window, stride=bundle.stride, settings=settings.stream, early=early)
    detector = WindowScorer(bundle, settings.detection, min_coverage=settings.stream.min_coverage, bounds=settings.alerts.bounds)
    return Model(bundle.name, bundle.schema, processor, detector)


def build_service(settings: Settings, parts: Sequence[str] = PARTS) -> list[Part]:
    """The named parts with the watchdog, the health server and the heartbeat, not started.

    Raises ``Stop`` (bad configuration or bundle) before anything is consumed.
    """
    from service.observability.health import Health, health_app
    from service.observability.http_part import HttpPart
    from service.observability.metrics import Metrics
    from service.observability.watchdog import Watchdog, WatchdogPart
    from service.runtime import RestartedPart

    clock, http = SystemClock(), settings.http
    metrics, health = Metrics(), Health(clock)
    built: list[Part] = [WatchdogPart(Watchdog(health), metrics.loop_lag.observe, health=health, clock=clock)]
    if http.enabled:
        app = health_app(health, metrics)
        built.append(HttpPart("health", app, http.host, http.port, setting="http.port", health=health, clock=clock))
    if settings.notifications.heartbeat is not None:
        built.append(build_heartbeat(settings.notifications.heartbeat, health))
    builders = {"scoring": build_scoring, "store": build_store, "notify": build_notify}
    makers = (partial(builders[part], settings, metrics, health) for part in parts)
    return [*built, *(RestartedPart(maker, health, clock) for maker in makers)]


def build_scoring(settings: Settings, metrics: Metrics, health: Health) -> Part:
    """metrics → codec → windows → detectors → episodes → outbox."""
    from service.alerts.control.topic import ControlReader
    from service.alerts.lifecycle.acknowledgements import Acknowledgements
    from service.alerts.lifecycle.episodes import Episodes
    from service.alerts.topics.transitions import encode_transition
    from service.observability.tasks import BackgroundTasks
    from service.sources.kafka import KafkaSource
    from service.state.health_topic import HealthTopic
    from service.state.transactions import TransactionalOutbox
    from service.stream.data_health.reporter import Reporter
    from service.stream.entity_state import EntityStates
    from service.stream.intake import Intake
    from service.stream.scoring import BATCH_BYTES, ScoringPart

    clock, models = SystemClock(), build_models(settings)
    source = KafkaSource(settings, min(model.processor.max_records_for(BATCH_BYTES) for model in models.all))
    codec: Codec = component(CODECS, "native", "codec")(models.schema_of, settings.stream)
    episodes = Episodes(settings.alerts, settings.config_hash())
    lifetime_ms = round((settings.alerts.max_episode_seconds + settings.stream.idle_after_seconds) * 1000)
    acknowledgements = Acknowledgements(episodes, clock=clock, lifetime_ms=lifetime_ms)
    intake = Intake(codec, models)
    reports = HealthTopic(settings.kafka) if settings.data_health.reported else None
    return ScoringPart(
        source=source,
        intake=intake,
        models=models,
        episodes=episodes,
        states=EntityStates(models, episodes),
        outbox=TransactionalOutbox(settings.kafka, encode=encode_transition),
        reporter=Reporter(settings, models, intake, source, reports, health=health, clock=clock),
        acknowledgements=acknowledgements,
        control=ControlReader(settings.kafka, acknowledgements.receive, BackgroundTasks("scoring", health, clock)),
        metrics=metrics,
        health=health,
        clock=clock,
    )


def build_store(settings: Settings, metrics: Metrics, health: Health) -> Part:
    """tidewatch.alerts → Elasticsearch."""
    from service.alerts.history.mute_annotator import KEEP_SECONDS, MuteAnnotator
    from service.alerts.history.part import StorePart
    from service.state.dead_letter_writer import DeadLetterWriter

    longest_alert = settings.alerts.max_episode_seconds + settings.stream.idle_after_seconds
    keep_seconds = max(KEEP_SECONDS, settings.kafka.topics.retention_hours * 3600, longest_alert)
    annotator = MuteAnnotator(
        settings.kafka, settings.notifications, health=health, clock=SystemClock(), keep_ms=round(keep_seconds * 1000)
    )
    store = build_alert_store(settings, muted=annotator.reason, on_refused=lambda operation, why: part.refused(operation, why))
    letters = DeadLetterWriter(settings.kafka, on_written=metrics.count_dead_letters)
    part: StorePart = StorePart(settings.kafka, store, metrics=metrics, health=health, annotator=annotator, letters=letters)
    return part


def build_alert_store(settings: Settings, **options: Any) -> Any:
    """The store that the alert history is written to. Raises ``ConfigError`` for unusable credentials."""
    return component(STORES, "elasticsearch", "store")(settings.elasticsearch, **options)


def build_history(settings: Settings) -> Any:
    """The reader of the alert history."""
    return component(HISTORIES, "elasticsearch", "store")(settings.elasticsearch)


def build_heartbeat(settings: HeartbeatSettings, health: Health) -> Part:
    """The dead man's switch. Raises ``ConfigError`` for a URL that must not be used."""
    from service.alerts.receivers.heartbeat import HeartbeatPart

    return HeartbeatPart(settings, health=health, clock=SystemClock())


def build_operators(settings: Settings, history: Any, health: Health | None = None) -> Operators:
    """Writes the operators' commands, for the command line and the API. ``health``: of the API."""
    from service.alerts.control.mutes import fixed_silences
    from service.alerts.control.operators import Operators
    from service.observability.health import Health
    from service.observability.tasks import BackgroundTasks

    clock = SystemClock()
    tasks = BackgroundTasks("api", health or Health(clock), clock)
    return Operators(settings.kafka, history, clock=clock, tasks=tasks, fixed=fixed_silences(settings.notifications))


def build_notify(settings: Settings, metrics: Metrics, health: Health) -> Part:
    """tidewatch.alerts → Slack, e-mail, webhooks."""
    from service.alerts.data_health.alerts import DataHealth
    from service.alerts.notify.data_watch import DataWatch
    from service.alerts.notify.journal import Journal
    from service.alerts.notify.part import NotifyPart
    from service.state.notify_journal import NotifyJournal
    from service.state.topic_monitor import TopicMonitor

    clock, journal = SystemClock(), Journal()
    service = build_notifications(
        settings, journal, health, on_outcome=lambda receiver, outcome: metrics.notifications.labels(receiver, outcome).inc()
    )
    for receiver in settings.notifications.receivers:
        metrics.unsettled.labels(receiver.name).set_function(partial(service.unsettled, receiver.name))
    watch = None
    if settings.data_health.watched:
        monitor = TopicMonitor(settings.kafka, settings.data_health, clock=clock)
        findings = DataHealth(settings.data_health, settings.kafka.topics.metrics)
        watch = DataWatch(findings, monitor, clock=clock, on_look=service.take_in)
    store = NotifyJournal(settings.kafka)
    return NotifyPart(settings.kafka, service, journal, store, health=health, clock=clock, watch=watch)


def build_notifications(
    settings: Settings, journal: Journal, health: Health | None = None, *, on_outcome: OnOutcome, history: bool = True
) -> NotificationService:
    """The notification service with every receiver of the settings; ``history``: with a look-up of earlier alerts. Raises
    ``ConfigError`` for a receiver that cannot work."""
    from service.alerts.notify.dispatcher import NotificationService

    return NotificationService(
        settings.notifications,
        build_notifiers(settings),
        journal=journal,
        clock=SystemClock(),
        on_outcome=on_outcome,
        health=health,
        past_alerts=partial(build_history, settings) if history else None,
    )


def build_alert_manager(settings: Settings, *, store: bool) -> AlertManager:
    """Episodes, store and notifications in one object, joined by calls: what the library form uses instead of topics."""
    from service.alerts.in_process import AlertManager
    from service.alerts.lifecycle.episodes import Episodes

    notifications = partial(build_notifications, settings, on_outcome=lambda *_: None, history=store)  # it serves no metrics
    return AlertManager(
        Episodes(settings.alerts, settings.config_hash()),
        clock=SystemClock(),
        make_store=partial(build_alert_store, settings) if store else None,
        make_notifications=notifications if settings.notifications.receivers else None,
    )


def build_notifiers(settings: Settings) -> dict[str, Notifier]:
    """Every receiver of the settings, by name."""
    notifications = settings.notifications
    return {
        receiver.name: component(NOTIFIERS, receiver.type, "receiver type")(
            receiver, history_url=notifications.history_url, timeout=notifications.attempt_timeout_seconds
        )
        for receiver in notifications.receivers
    }
