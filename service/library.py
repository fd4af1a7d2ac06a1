"""The library form: the same windows, detectors, alerts, store and receivers for any async iterator of rows, without Kafka.

::

    detector = RealTimeAnomalyDetector({"window_size": 100, "stride": 10})
    detector.fit(history)
    async for result in detector.process_stream(data_stream):
        if result.is_anomaly: ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from service.app import build_alert_manager, build_model, make_detector, open_bundle
from service.detectors.bundle import Bundle
from service.domain import Dataset, Samples, Schema, Series, Verdict
from service.errors import ConfigError
from service.progress import Progress, silent
from service.settings import Settings, settings_from
from service.stream.models import Model
from service.stream.samples import rows_to_samples
from service.training.train import train

KEYS = ("window_size", "stride", "interval_seconds", "metrics", "entity", "bundle", "learn_rows")
SECTIONS = ("deep_config", "stat_config", "alert_config", "training", "detection", "stream")


class RealTimeAnomalyDetector:
    """Scores a stream of rows, each (metrics,) or (n, metrics), NaN where missing.

    ``config`` is a plain mapping, every key optional:

    - ``window_size``, ``stride`` (rows); ``interval_seconds`` between rows (1); ``entity`` (``"stream"``); ``metrics``: names.
    - ``deep_config``, ``stat_config``: options of the deep and the statistical detector; ``None`` leaves one out.
    - ``alert_config``: ``notification`` and ``storage`` as under ``notifications`` and ``elasticsearch`` in the settings, and
      ``episodes`` as under ``alerts``. Without it nothing is stored and nobody is notified.
    - ``bundle``: the directory of a trained bundle. Without one, call ``fit``; else the first ``learn_rows`` rows of the stream
      (30 windows by default) are taken as normal and trained on, not scored.
    - ``training``, ``detection``, ``stream``: as in the settings.

    Nothing else is read: no settings file and no environment variable.

    Raises ``ConfigError`` for keys that are unknown or wrong, ``BundleError`` for a bundle that does not fit.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self._config = dict(config or {})
        unknown = sorted(set(self._config) - {*KEYS, *SECTIONS})
        if unknown:
            raise ConfigError(f"There is no key {unknown[0]!r}.", hint=f"Known: {', '.join((*KEYS, *SECTIONS))}.")
        self._settings = _settings(self._config)
        self._entity = str(self._config.get("entity", "stream"))
        self._alerts = build_alert_manager(self._settings, store="storage" in (self._config.get("alert_config") or {}))
        self._next_row = 0
        self._model: Model | None = None
        if "bundle" in self._config:
            self._use(open_bundle(Path(self._config["bundle"])))

    def fit(self, history: NDArray[Any], *, progress: Progress = silent) -> Bundle:
        """Train on ``history`` (rows, metrics), oldest first, taken as normal; returns the bundle, which can be saved.

        Raises ``NotEnoughData`` naming the number of rows it needs.
        """
        values = np.atleast_2d(np.asarray(history, np.float32))
        names = self._config.get("metrics") or [f"m{at:02d}" for at in range(values.shape[1])]
        interval_ms = round(1000 * float(self._config.get("interval_seconds", 1.0)))
        dataset = Dataset(Schema(tuple(names), interval_ms), [Series(self._entity, 0, values)])
        bundle = train(
            dataset,
            self._settings.training,
            name="library",
            detectors=self._settings.training.detectors,
            factory=make_detector,
            progress=progress,
        )
        self._use(bundle)
        return bundle

    async def process_stream(self, data_stream: AsyncIterator[NDArray[Any]]) -> AsyncIterator[Verdict]:
        """One result per window that comes due: ``is_anomaly``, ``score``, ``severity``, ``p``, ``metrics``, ``members``.

        Alerts are stored and notified on the way when ``alert_config`` says so; before the iterator ends, what is pending is
        stored and sent, for 30 seconds at most. While a store or receiver is away, alerts wait in memory, and a log line says so.

        A further stream of the same detector continues the series: its first row is the one after the last row taken, and open
        alerts stay open. Streams of several entities need a detector each.

        Raises ``ConfigError`` before a row is taken when the store refuses the credentials, ``ValueError`` for rows of another
        width.
        """
        await self._alerts.start()
        try:
            if self._model is None:
                data_stream = await self._learn_from(data_stream)
            model = self._model
            assert model is not None
            async for rows in data_stream:
                samples = rows_to_samples(rows, model.schema, entity=self._entity, first_row=self._next_row)
                self._next_row += len(samples)
                for verdict in await self._score(model, samples):
                    self._alerts.handle([verdict])
                    yield verdict
        finally:
            await self._alerts.close()

    async def _score(self, model: Model, samples: Samples) -> list[Verdict]:
        due, _ = model.processor.add(samples, {})
        return [verdict for windows in due for verdict in await model.detector.detect(windows)]

    async def _learn_from(self, data_stream: AsyncIterator[NDArray[Any]]) -> AsyncIterator[NDArray[Any]]:
        """Train on the first rows; returns the rest of the stream."""
        wanted = int(self._config.get("learn_rows", 30 * self._settings.training.window))
        seen: list[NDArray[Any]] = []
        rows = 0
        async for item in data_stream:
            seen.append(np.atleast_2d(np.asarray(item, np.float32)))
            rows += len(seen[-1])
            if rows >= wanted:
                break
        if not seen:
            raise ConfigError("The stream ended before anything could be learned.", hint="Call fit(history) first.")
        self.fit(np.concatenate(seen))
        return data_stream

    def _use(self, bundle: Bundle) -> None:
        self._model = build_model(bundle, self._settings)


def _settings(config: Mapping[str, Any]) -> Settings:
    """The mapping as settings. Raises ``ConfigError`` for keys that are unknown or wrong."""
    training = dict(config.get("training") or {})
    training |= {name: config[key] for key, name in (("window_size", "window"), ("stride", "stride")) if key in config}
    families = {"deep": config.get("deep_config", {}), "statistical": config.get("stat_config", {})}
    if "deep_config" in config or "stat_config" in config:
        training.setdefault("detectors", {name: dict(options) for name, options in families.items() if options is not None})
    alerts = config.get("alert_config") or {}
    unknown: Sequence[str] = sorted(set(alerts) - {"notification", "storage", "episodes"})
    if unknown:
        raise ConfigError(f"There is no key {unknown[0]!r} in alert_config.", hint="Known: notification, storage, episodes.")
    sections = {
        "training": training,
        "detection": config.get("detection") or {},
        "stream": config.get("stream") or {},
        "alerts": alerts.get("episodes") or {},
        "notifications": alerts.get("notification") or {},
        "elasticsearch": alerts.get("storage") or {},
    }
    try:
        return settings_from(sections)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors(include_input=False)
        )
        raise ConfigError(f"The config is wrong: {wrong}.", hint="See the docstring of RealTimeAnomalyDetector.") from error
