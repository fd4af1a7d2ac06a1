"""People's words: whatever order they are read in, the same holds; and over a real Kafka they reach whom they must."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.alerts.control.commands import (
    Acknowledge,
    AddSilence,
    Command,
    Control,
    ExpireSilence,
    Mark,
    MarkVerdict,
    decode,
    encode,
    encode_key,
    false_mark,
    mark_of,
    preview,
)
from service.alerts.control.mutes import Mutes
from service.alerts.control.topic import send_command
from service.alerts.history.alert_documents import document
from service.errors import CommandRefused, InvalidMessage
from service.settings import KafkaSettings, NotificationSettings
from tests.alerts.makers import alert

SILENCE = AddSilence(id="s1", match={"entity": "db-*"}, starts_at=1000, ends_at=9000, author="Ada", at=900, comment="disks")


def held(*commands: Command) -> Control:
    control = Control()
    for command in commands:
        control.apply(command)
    return control


def test_a_silence_holds_until_it_is_expired() -> None:
    muting = Mutes(NotificationSettings())
    held(SILENCE).mute(muting, 5000)
    assert muting.reason(alert("db-7"), 5000) == "silenced by Ada (s1): disks"
    held(SILENCE, ExpireSilence(id="x", silence_id="s1", author="Bob", at=4000)).mute(muting, 5000)
    assert muting.reason(alert("db-7"), 5000) is None


def test_expiring_late_or_twice_never_lengthens_a_silence() -> None:
    late = ExpireSilence(id="x", silence_id="s1", author="Bob", at=99_000)
    early = ExpireSilence(id="y", silence_id="s1", author="Bob", at=10)
    assert [s.ends_at for s in held(SILENCE, late).silences()] == [9000]
    assert [s.ends_at for s in held(SILENCE, late, early).silences()] == [1000]


def test_the_newest_judgement_counts_and_the_others_are_remembered() -> None:
    said = alert("db-7")
    wrong = mark_of(document(said), mark_id="m1", author="Ada", at=10, verdict="false", note="nightly backup")
    assert wrong.metrics == ("cpu_percent",)  # holds 71 % of the attribution by itself
    quiet = msgspec.structs.replace(wrong, id="m2", at=20, suppress=True)
    back = msgspec.structs.replace(wrong, id="m3", at=30, verdict="none")
    assert held(wrong).marks()[said.alert_id].verdict == "false"
    muting = Mutes(NotificationSettings())
    held(wrong).mute(muting, 0)
    assert muting.reason(said, 0) is None  # marked, but nobody asked to suppress its like
    held(wrong, quiet).mute(muting, 0)
    assert muting.reason(said, 0) is not None
    control = held(back, quiet, wrong)
    assert control.marks() == {}
    control.mute(muting, 0)
    assert muting.reason(said, 0) is None
    assert [mark.id for mark in control.marks_of(said.alert_id)] == ["m1", "m2", "m3"]


def test_the_preview_names_the_past_alerts_a_mark_would_have_kept_quiet() -> None:
    history = [document(alert("db-7")), document(alert("db-8")), document(alert("db-7", metrics=()))]
    mark = mark_of(document(alert("db-7")), mark_id="m", author="Ada", at=1, verdict="false")
    assert [found["tidewatch"]["entity"] for found in preview(false_mark(mark), history)] == ["db-7"]
    wider = msgspec.structs.replace(mark, entity="db-*")
    assert len(preview(false_mark(wider), history)) == 2


NAMES = st.sampled_from(["a", "b", "c"])
JUDGEMENTS: list[tuple[MarkVerdict, bool]] = [("true", False), ("false", False), ("false", True), ("none", False)]
SILENCES = [
    AddSilence(id=name, match={"entity": "*"}, starts_at=starts, ends_at=ends, author="Ada", at=1)
    for name, starts, ends in (("a", 0, 6), ("b", 4, 9), ("c", 5, 7))
]
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(Acknowledge, id=st.uuids().map(str), alert_id=NAMES, entity=NAMES, author=NAMES, at=st.integers(0, 9)),
    st.sampled_from(SILENCES),
    st.builds(ExpireSilence, id=st.uuids().map(str), silence_id=NAMES, author=NAMES, at=st.integers(0, 9)),
    st.builds(
        lambda judgement, **said: Mark(verdict=judgement[0], suppress=judgement[1], **said),
        st.sampled_from(JUDGEMENTS),
        id=st.uuids().map(str),
        alert_id=NAMES,
        entity=NAMES,
        metrics=st.just(("cpu",)),
        author=NAMES,
        at=st.integers(0, 9),
    ),
)


@given(st.lists(COMMANDS, max_size=12), st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_hold_the_same(commands: list[Command], shuffled: random.Random) -> None:
    again = commands * 2
    shuffled.shuffle(again)
    one, other = held(*commands), held(*again)
    assert one.silences() == other.silences()
    assert one.marks() == other.marks()
    assert one.acknowledged == other.acknowledged


@given(COMMANDS)
def test_commands_survive_the_wire_under_keys_of_their_own(command: Command) -> None:
    assert decode(encode(command)) == command
    assert command.id in encode_key(command).decode()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (msgspec.structs.replace(SILENCE, author=" "), "needs an author"),
        (msgspec.structs.replace(SILENCE, match={}), "would mute everything"),
        (msgspec.structs.replace(SILENCE, ends_at=1000), "must end after"),
        (msgspec.structs.replace(SILENCE, comment="x" * 2001), "longer than"),
        (msgspec.structs.replace(SILENCE, ends_at=10**15), "between 1970 and 9999"),
        (msgspec.structs.replace(SILENCE, at=-1), "between 1970 and 9999"),
        (Mark(id="m", alert_id="a", verdict="true", entity="e", metrics=(), author="A", at=0, suppress=True), "marked false"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_reader_and_writer(command: Command, why: str) -> None:
    with pytest.raises(InvalidMessage, match=why):
        decode(encode(command))
    with pytest.raises(CommandRefused, match=why):
        asyncio.run(send_command(KafkaSettings(), command))


@given(st.binary(max_size=100))
def test_noise_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode(value)


def in_force(control: Control, since: int) -> tuple[object, ...]:
    """All that can matter from ``since`` on."""
    silences = [each for each in control.silences() if each.ends_at >= since and each.starts_at < each.ends_at]
    suppressing = {alert_id: mark for alert_id, mark in control.marks().items() if mark.suppress}
    judged = {alert_id: mark for alert_id, mark in control.marks().items() if mark.at >= since}
    return silences, suppressing, judged


@given(st.lists(COMMANDS, max_size=14), st.integers(0, 10), st.integers(0, 14))
def test_deleting_what_is_outdated_changes_nothing_that_holds_wherever_it_is_cut_off(
    commands: list[Command], before: int, deleted: int
) -> None:
    control = held(*commands)
    outdated = control.outdated(before)
    left = held(*commands)
    left.drop(outdated[:deleted])
    assert in_force(left, before) == in_force(control, before)
    taken = {alert_id: each for alert_id, each in control.acknowledged.items() if each.at >= before}
    assert {alert_id: left.acknowledged.get(alert_id) for alert_id in taken} == taken


@given(st.lists(COMMANDS, max_size=14), st.integers(0, 10))
def test_what_is_left_is_new_or_in_force(commands: list[Command], before: int) -> None:
    control = held(*commands)
    outdated = control.outdated(before)
    assert len(set(outdated)) == len(outdated)
    kept = [command for command in commands if encode_key(command).decode() not in outdated]
    silences = {each.id for each in kept if isinstance(each, AddSilence)}
    for command in kept:
        match command:
            case AddSilence():
                expired = [each.at for each in kept if isinstance(each, ExpireSilence) and each.silence_id == command.id]
                assert command.ends_at >= before
                assert max([command.starts_at, *expired]) >= before or not expired
            case ExpireSilence():
                assert command.at >= before or command.silence_id in silences
            case Mark():
                assert command.at >= before or (command.suppress and control.marks().get(command.alert_id) == command)
            case _:
                assert command.at >= before
