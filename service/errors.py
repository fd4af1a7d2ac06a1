"""One tree of exceptions; the type says what the caller should do.

::

    TidewatchError
    ├── Retry              a server or receiver is away: back off, keep order, try again
    │   ├── BrokerUnavailable
    │   ├── StoreUnavailable
    │   └── DeliveryFailed         (carries retry_after seconds, when the receiver named them)
    ├── Reject             this record (or document, or notification) is bad: set it aside with its reason, count, go on
    │   ├── InvalidMessage         (carries a short machine-readable reason)
    │   └── DeliveryRefused
    └── Stop               bad configuration or bundle: say it in one sentence and exit non-zero before consuming anything
        ├── ConfigError
        ├── NotFound               (an alert or a silence that a person named)
        ├── CommandRefused         (what a person said cannot be obeyed)
        ├── BundleError
        ├── DatasetError
        ├── NotEnoughData
        ├── TrainingFailed
        └── LocalStackError

Every ``Stop`` carries a ``hint``: what the person should do next. The CLI prints ``message`` and ``hint``, never a traceback.
"""

from __future__ import annotations


class TidewatchError(Exception):
    """Root of everything Tidewatch raises on purpose."""


class Retry(TidewatchError):  # noqa: N818 - named after what the caller does
    """Something outside is away; the same call may succeed later."""


class BrokerUnavailable(Retry):
    """Kafka does not answer."""


class StoreUnavailable(Retry):
    """Elasticsearch does not answer, or asks us to slow down."""


class DeliveryFailed(Retry):
    """A receiver did not take a notification this time.

    ``retry_after`` is the receiver's own wish in seconds, or ``None`` if it named none.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Reject(TidewatchError):  # noqa: N818 - named after what the caller does
    """This one item is bad and will stay bad; set it aside and go on."""


class InvalidMessage(Reject):
    """A record that cannot become a sample.

    ``reason`` is a short, stable, machine-readable word (it becomes a metric label): ``not-json``, ``wrong-type``,
    ``too-large``, ``unknown-entity``, ``unknown-shape``, ``not-finite``, ``bad-timestamp``, ``too-far-ahead``,
    ``split-entity``, ``too-many-entities`` …; ``str(error)`` says it for a person.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DeliveryRefused(Reject):
    """A receiver said no for good (bad URL, revoked token, mailbox unknown); trying again would not help."""


class Stop(TidewatchError):  # noqa: N818 - named after what the caller does
    """Tidewatch cannot or should not start; ``hint`` says what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(Stop):
    """Settings that contradict themselves or name what does not exist."""


class NotFound(Stop):
    """A person named an alert or a silence that does not exist, or not by one name only."""


class CommandRefused(Stop):
    """What a person said of an alert cannot be obeyed: no author, a silence of everything, a note too long."""


class BundleError(Stop):
    """A model bundle that cannot be read, or does not fit the running configuration or libraries."""


class DatasetError(Stop):
    """A data file that cannot be read as a labelled or unlabelled series."""


class NotEnoughData(Stop):
    """Too few rows to train or calibrate on; the message names the least that is needed."""


class TrainingFailed(Stop):
    """A detector did not learn anything usable (its loss ran away, a generator collapsed); the message says which and why."""


class LocalStackError(Stop):
    """The local Kafka or Elasticsearch could not be installed, started or reached."""
