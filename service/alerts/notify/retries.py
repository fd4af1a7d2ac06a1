"""When messages that a receiver did not take are tried again. All times are monotonic seconds, passed in."""

from __future__ import annotations

import math
import random

import msgspec

LONGEST_SILENCE = 900.0  # however long a receiver asks to be left alone
LEFT_BEHIND, NEVER_TRIED, TRIED = range(3)  # ranks: what goes first


class Tries(msgspec.Struct, frozen=True):
    """How long a message is tried, in seconds: each try, all of them together, and the first and longest wait between two."""

    attempt_timeout: float = 10.0
    deadline: float = 3600.0
    first_wait: float = 0.5
    longest_wait: float = 60.0


class _Failed(msgspec.Struct, frozen=True):
    """A message that failed in this process: how often, since when, and when it is tried again."""

    times: int
    since: float
    again_at: float


class Retries:
    """The failed messages of one receiver, by the key of their group (which has one pending message at most)."""

    def __init__(self, tries: Tries) -> None:
        self._tries = tries
        self._failed: dict[str, _Failed] = {}
        self._silent_until = 0.0

    def rank(self, group: str) -> int:
        """Of messages that are pending: those that another process left behind go first, those that failed last."""
        return TRIED if group in self._failed else LEFT_BEHIND

    def wait(self, group: str, now: float) -> float:
        """Seconds until the pending message of this group may be tried; 0 or less: now."""
        return self._failed[group].again_at - now if group in self._failed else 0.0

    def silence(self, now: float) -> float:
        """Seconds for which the receiver asked to be left alone; 0 or less: none."""
        return self._silent_until - now

    def failed(self, group: str, now: float, retry_after: float | None) -> float | None:
        """A try failed: seconds until the next, or ``None`` when the message is given up. Waits double from the first to the
        longest, with some chance in them so that many do not come back at once, and never beyond the deadline. ``retry_after``:
        the receiver's own wish, for all of its messages; a shorter one than these waits changes nothing."""
        before = self._failed.get(group)
        since = now if before is None else before.since
        times = 1 if before is None else before.times + 1
        left = since + self._tries.deadline - now
        asked = None if retry_after is None or math.isnan(retry_after) else min(max(retry_after, 0.0), LONGEST_SILENCE)
        if asked is not None:
            self._silent_until = max(self._silent_until, now + asked)
        if left <= 0.0:
            return None
        wait: float = min(self._tries.first_wait * 2 ** min(times - 1, 30), self._tries.longest_wait)
        wait = min(wait + random.uniform(0.0, self._tries.first_wait), self._tries.longest_wait)  # noqa: S311 - no secret
        if asked is not None:  # never sooner than it would be without: a receiver that says 0 is not asked without a pause
            wait = max(wait, asked)
        wait = min(wait, left)  # the last try comes at the deadline, not long after it
        self._failed[group] = _Failed(times, since, now + wait)
        return wait

    def settled(self, group: str) -> None:
        """The message was sent, refused or given up."""
        self._failed.pop(group, None)

    def clear(self) -> None:
        """Another process notifies from now on."""
        self._failed.clear()
