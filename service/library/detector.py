"""``RealTimeAnomalyDetector``: rows in, verdicts out, alerts on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.app import build_alert_manager, build_model, make_detector, open_bundle
from service.detectors.bundle import Bundle, save_bundle
from service.domain import Dataset, Samples, Schema, Series, Verdict
from service.errors import ConfigError
from service.library import frames
from service.library.config import input_dim, settings_of, stores
from service.progress import Progress, silent
from service.sources.grid import to_dataset
from service.stream.models import Model
from service.stream.samples import rows_to_samples
from service.training.train import train


class RealTimeAnomalyDetector:
    """Scores a stream of rows, each (metrics,) or (n, metrics), NaN where missing, or of pandas frames.

    ``config`` is a plain mapping, every key optional:

    - ``window_size``, ``stride`` (rows); ``interval_seconds`` between rows (1); ``entity`` (``"stream"``); ``metrics``: names.
    - ``deep_config``: options of the deep detector, among them ``latent_dim``, ``hidden_layers`` and ``input_dim``, the number
      of metrics, which the data must have. ``stat_config``: of the statistical detector, among them ``contamination``, the
      share of the training data that may be unusual, and ``ensemble_weights`` of isolation forest, elliptic envelope and
      one-class SVM. ``None`` leaves that detector out; the others of the default ensemble stay.
    - ``alert_config``: ``notification``, with ``email`` (addresses; sent through ``localhost:25`` unless ``smtp`` says ``host``,
      ``port`` and so on) and ``slack_webhook`` (a URL), and whatever stands under ``notifications`` in the settings;
      ``storage``, with ``host`` and ``port`` of Elasticsearch, and whatever stands under ``elasticsearch`` in the settings;
      ``episodes`` as under ``alerts``. Without it nothing is stored and nobody is notified.
    - ``bundle``: the directory of a trained bundle. Without one, call ``fit``; else the first ``learn_rows`` rows of the stream
      (30 windows by default) are taken as normal and trained on, not scored.
    - ``training``, ``detection``, ``stream``: as in the settings.

    Nothing else is read: no settings file and no environment variable.

    Raises ``ConfigError`` for keys that are unknown or wrong, ``BundleError`` for a bundle that does not fit.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self._config = dict(config or {})
        self._settings = settings_of(self._config)
        self._entity = str(self._config.get("entity", "stream"))
        self._alerts = build_alert_manager(self._settings, store=stores(self._config))
        self._next_row = 0
        self._bundle: Bundle | None = None
        self._model: Model | None = None
        if self._config.get("bundle") is not None:
            self._use(open_bundle(Path(self._config["bundle"])))

    def fit(self, history: Any, *, progress: Progress = silent) -> Bundle:
        """Train on ``history`` (rows, metrics), oldest first, taken as normal; returns the bundle (``save`` writes it).

        Of a pandas frame the columns name the metrics, and an index of times gives the interval.
        Raises ``NotEnoughData`` naming the number of rows it needs, ``ConfigError`` for another number of metrics than
        ``input_dim``.
        """
        dataset = self._dataset(history)
        self._check(dataset.schema)
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

    def save(self, path: Path | str) -> Path:
        """Write the bundle that was trained or loaded to the directory ``path``: ``tidewatch run`` can serve it, or ``bundle``
        here name it. Raises ``ConfigError`` where nothing was trained yet."""
        if self._bundle is None:
            raise ConfigError("There is nothing to save yet.", hint="Call fit(history) first.")
        save_bundle(self._bundle, Path(path))
        return Path(path)

    def _dataset(self, history: Any) -> Dataset:
        seconds = self._config.get("interval_seconds")
        interval_ms = None if seconds is None else round(1000 * float(seconds))
        if not frames.is_frame(history):
            values = np.atleast_2d(np.asarray(history, np.float32))
            names = self._config.get("metrics") or [f"m{at:02d}" for at in range(values.shape[1])]
            return Dataset(Schema(tuple(names), interval_ms or 1000), [Series(self._entity, 0, values)])
        names = tuple(self._config.get("metrics") or frames.names_of(history))
        values, times = frames.values_of(history, names), frames.times_of(history)
        if times is None:
            return Dataset(Schema(names, interval_ms or 1000), [Series(self._entity, 0, values)])
        return to_dataset(names, [self._entity] * len(values), times, values, interval_ms=interval_ms)

    async def process_stream(self, data_stream: AsyncIterator[Any]) -> AsyncIterator[Verdict]:
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
            async for item in data_stream:
                for first_row, rows in self._placed(item, model.schema):
                    samples = rows_to_samples(rows, model.schema, entity=self._entity, first_row=first_row)
                    self._next_row = first_row + len(samples)
                    for verdict in await self._score(model, samples):
                        self._alerts.handle([verdict])
                        yield verdict
        finally:
            await self._alerts.close()

    def _placed(self, item: Any, schema: Schema) -> Iterator[tuple[int, NDArray[Any]]]:
        """The rows of an item with the grid row at which they begin: where their times say, else after the last row taken."""
        if not frames.is_frame(item):
            yield self._next_row, item
            return
        values, times = frames.values_of(item, schema.metrics), frames.times_of(item)
        if times is None:
            yield self._next_row, values
            return
        rows, first = np.unique(times // schema.interval_ms, return_index=True)
        new = rows >= self._next_row  # rows taken before are not taken twice
        rows, values = rows[new], values[first[new]]
        for part in frames.runs(rows):
            yield int(rows[part.start]), values[part]

    async def _score(self, model: Model, samples: Samples) -> list[Verdict]:
        due, _ = model.processor.add(samples, {})
        return [verdict for windows in due for verdict in await model.detector.detect(windows)]

    async def _learn_from(self, data_stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Train on the first rows; returns the rest of the stream."""
        wanted = int(self._config.get("learn_rows") or 30 * self._settings.training.window)
        seen: list[Any] = []
        rows = 0
        async for item in data_stream:
            seen.append(item if frames.is_frame(item) else np.atleast_2d(np.asarray(item, np.float32)))
            rows += len(seen[-1])
            if rows >= wanted:
                break
        if not seen:
            raise ConfigError("The stream ended before anything could be learned.", hint="Call fit(history) first.")
        self.fit(frames.joined(seen) if frames.is_frame(seen[0]) else np.concatenate(seen))
        return data_stream

    def _check(self, schema: Schema) -> None:
        expected = input_dim(self._config)
        if expected is not None and expected != schema.dims:
            raise ConfigError(
                f"deep_config.input_dim is {expected}, but the data have {schema.dims} metrics.",
                hint="Set it to their number, or leave it out.",
            )

    def _use(self, bundle: Bundle) -> None:
        self._check(bundle.schema)
        self._bundle = bundle
        self._model = build_model(bundle, self._settings)
