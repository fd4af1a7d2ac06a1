"""One tree of exceptions; the type says what the caller should do.

::

    TidewatchError
    ├── Retry              a server or receiver is away: back off, keep order, try again
    │   ├── BrokerUnavailable
    │   ├── StoreUnavailable
    │   └── DeliveryFailed         (carries retry_after seconds, when the receiver named them)
    ├── Reject             this record (or document, or notification) is bad: set it aside with its reason, count it, continue
    │   ├── InvalidMessage         (carries a short machine-readable reason)
    │   └── DeliveryRefused
    └── Stop               bad configuration or bundle: report it in one sentence, exit non-zero before consuming anything
        ├── ConfigError
        ├── NotFound               (an alert or a silence that an operator named)
        ├── CommandRefused         (an operator's command that cannot be applied)
        ├── BundleError
        ├── DatasetError
        ├── NotEnoughData
        ├── TrainingFailed
        └── LocalStackError

Every ``Stop`` carries a ``hint``: what to do next. The CLI prints ``message`` and ``hint``, never a traceback.
"""

from __future__ import annotations


class TidewatchError(Exception):
    """Root of everything Tidewatch raises on purpose."""


class Retry(TidewatchError):  # noqa: N818 - named after what the caller does
    """Something outside cannot be reached; the same call may succeed later."""


class BrokerUnavailable(Retry):
    """Kafka does not answer."""


class StoreUnavailable(Retry):
    """Elasticsearch does not answer, or is too busy."""


class DeliveryFailed(Retry):
    """A receiver did not take a notification this time.

    ``retry_after``: seconds that the receiver asked us to wait, or ``None``.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Reject(TidewatchError):  # noqa: N818 - named after what the caller does
    """This one item is bad and will stay bad; set it aside and continue."""


class InvalidMessage(Reject):
    """A record that cannot become a sample.

    ``reason`` is a short, stable, machine-readable word (it becomes a metric label): ``not-json``, ``wrong-type``,
    ``too-large``, ``unknown-entity``, ``unknown-shape``, ``not-finite``, ``bad-timestamp``, ``too-far-ahead``,
    ``split-entity``, ``too-many-entities`` …; ``str(error)`` is a sentence for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DeliveryRefused(Reject):
    """A receiver refuses for good (bad URL, revoked token, unknown mailbox); trying again would not help."""


class Stop(TidewatchError):  # noqa: N818 - named after what the caller does
    """Tidewatch cannot or should not start; ``hint`` says what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(Stop):
    """Settings that contradict themselves or name what does not exist."""


class NotFound(Stop):
    """The named alert or silence does not exist, or the name fits more than one."""


class CommandRefused(Stop):
    """An operator's command cannot be applied: no author, a silence of everything, a note that is too long."""


class BundleError(Stop):
    """A model bundle that cannot be read, or does not fit the running configuration or libraries."""


class DatasetError(Stop):
    """A data file that cannot be read as a labelled or unlabelled series."""


class NotEnoughData(Stop):
    """Too few rows to train or calibrate on; the message names the least that is needed."""


class TrainingFailed(Stop):
    """A detector did not learn anything usable (its loss diverged, a generator collapsed); the message says which and why."""


class LocalStackError(Stop):
    """The local Kafka or Elasticsearch could not be installed, started or reached."""
