"""Channels: parameters that point to one image, whose versions tell the history, moved by one person at a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto_fixtures import Killed, disturbed, refused
from samples import baked

from bakehouse import images, patience
from bakehouse.accounts import TAG, Account
from bakehouse.errors import AccountError, DeadlineError, InputError, NotFoundError
from bakehouse.images import channels
from bakehouse.images.channels import Channel, Move
from bakehouse.patience import Limit

NOW = datetime(2026, 11, 22, tzinfo=UTC)
ME = "arn:aws:sts::123456789012:user/moto"


def channel(*moves: tuple[str, int | None]) -> Channel:
    """Return a channel of versions from 1 on: each its image, and the version that its mover had seen."""
    versions = [Move(number, image, NOW, after=after) for number, (image, after) in enumerate(moves, 1)]
    return Channel("jenkins", "stable", tuple(versions))


@pytest.mark.parametrize(
    ("versions", "images_of_moves"),
    [
        ([], []),
        ([("a", 0), ("b", 1)], ["a", "b"]),
        ([("a", 0), ("b", 0)], ["a"]),
        ([("a", 0), ("b", 1), ("c", 1)], ["a", "b"]),
        ([("a", 0), ("b", 1), ("c", 1), ("b", 2)], ["a", "b", "b"]),
        ([("a", 0), ("b", 1), ("c", 1), ("d", 2), ("b", 2)], ["a", "b", "d"]),
        ([("a", None), ("b", None), ("c", 1)], ["a", "b"]),
        ([("b", 1), ("c", 0)], ["b"]),
    ],
)
def test_moves(versions: list[tuple[str, int | None]], images_of_moves: list[str]) -> None:
    """Of two moves after one version the first counts, and what others write always does."""
    assert images_of_moves == [move.image for move in channel(*versions).moves]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=9))
def test_no_two_moves_count_after_one_version(written: list[tuple[str, int]]) -> None:
    """Whoever moves a channel in whatever order, each move that counts had seen the one before it."""
    seen = [(image, min(after, number)) for number, (image, after) in enumerate(written)]

    moves = channel(*seen).moves

    assert all(earlier.version <= (later.after or 0) for earlier, later in pairwise(moves))
    assert bool(written) == bool(moves)


@pytest.mark.parametrize(
    ("history", "predecessors"),
    [("", ""), ("a", ""), ("abc", "ba"), ("abcb", "a"), ("abcba", ""), ("abcbd", "ba"), ("aab", "a"), ("abab", "a")],
)
def test_predecessors(history: str, predecessors: str) -> None:
    """What was rolled back from is no predecessor; the nearest one comes first."""
    moved = channel(*((image, after) for after, image in enumerate(history)))

    assert list(predecessors) == moved.predecessors


OURS = '{"image": "ami-0", "origin": "", "by": "me", "why": "", "stand_ins": [], "after": 2}'


@pytest.mark.parametrize("description", [None, "", "our AMI", "[]", '{"image": "ami-1"}', OURS])
def test_a_foreign_version(description: str | None) -> None:
    """A version that others made, with our note left as it was or with one of theirs, is read for what SSM knows."""
    answer = {"Version": 3, "Value": "ami-1", "LastModifiedDate": NOW, "LastModifiedUser": "them"}

    read = Move.from_aws(answer if description is None else {**answer, "Description": description})

    assert Move(3, "ami-1", NOW, by="them") == read


@pytest.mark.parametrize("name", ["", "Stable", "-x", "a/b", "x" * 33])
def test_a_name_that_is_none(name: str) -> None:
    """A channel's name is part of a parameter's, and so small letters, digits and dashes."""
    with pytest.raises(InputError, match="is not valid"):
        channels.check(name)


def read(account: Account, name: str = "stable") -> Channel:
    """Return a channel of recipe jenkins as it is now."""
    return channels.read(account, "jenkins", name)


def value(account: Account) -> str:
    """Return what those see who know the parameter and nothing of this kit."""
    return str(account.ssm.get_parameter(Name="/bakehouse/jenkins/stable")["Parameter"]["Value"])


@pytest.mark.local
def test_history(account: Account) -> None:
    """A channel's versions tell who moved it when and why, from where, over several pages."""
    first, second = baked(account), baked(account)
    moved = channels.move(account, read(account), first, "we begin", ["jenkins"])
    for number in range(59):
        moved = channels.move(account, moved, (second, first)[number % 2], f"č {number}")

    assert moved == read(account)
    assert (60, second, second) == (len(moved.moves), moved.image, value(account))
    begin, then = moved.moves[:2]
    assert (first, "", ME, "we begin", ("jenkins",), 0) == (
        *(begin.image, begin.origin, begin.by, begin.why, begin.stand_ins, begin.after),
    )
    assert (second, first, "č 0", 1) == (then.image, then.origin, then.why, then.after)
    assert [first, second] == [*moved.predecessors[:1], moved.image]
    rows = channels.as_rows([moved])
    assert ["stable", first, f"{begin.when:%Y-%m-%d %H:%M}", "", ME, "we begin; jenkins is a stand-in"] == rows[-1]
    assert second == channels.as_data(moved)["image"] == channels.as_data(moved)["history"][-1]["image"]


@pytest.mark.local
def test_find(account: Account) -> None:
    """All channels of a recipe, or of all, are found, over several pages; what else is in SSM is none."""
    image = baked(account)
    for recipe, name in [("nginx", "stable"), *(("jenkins", f"c{number}") for number in range(12))]:
        channels.move(account, channels.read(account, recipe, name), image)
    for foreign in ("/bakehouse/jenkins/Not/ours", "/bakehouse/jenkinsfile/stable", "/bakehouse/x"):
        account.ssm.put_parameter(Name=foreign, Value=image, Type="String")

    names = sorted(f"c{number}" for number in range(12))
    assert names == [one.name for one in channels.find(account, "jenkins")]
    assert {"jenkins", "jenkinsfile", "nginx"} == {one.recipe for one in channels.find(account)}
    assert [image] == [one.image for one in channels.find(account, "nginx")]
    with pytest.raises(NotFoundError, match="recipe nginx has no channel c1 on account local") as raised:
        channels.get(account, "nginx", "c1")
    assert "known: stable" == raised.value.hint


@pytest.mark.local
def test_an_image_that_is_not_there(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SSM doesn't take an image, that is said, and the channel stays where it was."""
    before = channels.move(account, read(account), baked(account))
    monkeypatch.setattr(patience, "VISIBLE", Limit(0.1, ""))

    with pytest.raises(DeadlineError, match="channel stable to take its version 2"):
        channels.move(account, before, "ami-0123456789abcdef0")
    assert before == read(account)


def try_to_move(account: Account, before: Channel, image: str) -> str:
    """Move a channel as it was read, and return what was said when somebody else had done so."""
    try:
        channels.move(account, before, image)
    except InputError as error:
        return error.text
    return ""


@pytest.mark.local
@pytest.mark.parametrize(("call", "wins"), [(0, "theirs"), (1, "theirs"), (2, "mine")])
def test_two_at_once(account: Account, call: int, wins: str) -> None:
    """Whichever call of a move another comes before, one of the two has moved the channel, and the other is told."""
    mine, theirs = baked(account), baked(account)
    before, told = channels.move(account, read(account), baked(account)), {}

    def intrude() -> None:
        told["theirs"] = try_to_move(account, before, theirs)

    told["mine"] = try_to_move(disturbed(account, intrude, call.__eq__), before, mine)

    winner = {"mine": mine, "theirs": theirs}[wins]
    [loser] = {"mine", "theirs"} - {wins}
    assert [winner, winner] == [read(account).image, value(account)]
    assert {wins: "", loser: f"channel stable was moved to {winner} meanwhile by {ME} and stays there"} == told


@pytest.mark.local
def test_killed(account: Account, killed_after: Callable[[int], Account]) -> None:
    """Whenever the one who moves a channel is killed, it points to the old or to the new image, and can be moved on."""
    old, new = baked(account), baked(account)
    seen = []
    for calls in count():
        before = channels.move(account, read(account), old)
        try:
            channels.move(killed_after(calls), before, new)
            break
        except Killed:
            seen.append(read(account).image)
            assert seen[-1] == value(account)
    assert [old, old, new] == seen


@pytest.mark.local
def test_killed_when_too_late(account: Account, killed_after: Callable[[int], Account]) -> None:
    """One who was killed before putting right what he had moved too late: the next move does."""
    first, late, last = baked(account), baked(account), baked(account)
    before = read(account)
    channels.move(account, before, first)
    with pytest.raises(Killed):
        channels.move(killed_after(3), before, late)
    assert (first, late) == (read(account).image, value(account))

    channels.move(account, read(account), last)

    assert [last, last] == [read(account).image, value(account)]


@pytest.mark.local
def test_without_rights(account: Account, image: images.Image, capsys: pytest.CaptureFixture[str]) -> None:
    """Who may not use SSM is told so, and where the rights are listed; a bake's image is complete all the same."""
    stranger = refused(account, "ssm")
    with pytest.raises(AccountError, match=r"is not authorized to perform: ssm:GetParameterHistory") as raised:
        channels.read(stranger, "jenkins", "stable")
    assert "docs/aws.md lists the rights that the tasks need" == raised.value.hint

    channels.nominate(stranger, image)

    told = capsys.readouterr().err
    assert "the image is complete, but channel candidate could not be moved to it: get_parameter_history: " in told
    assert "hint: docs/aws.md lists the rights" in told


@pytest.mark.local
def test_nominate(account: Account, image: images.Image) -> None:
    """A bake's image is the candidate, with its run as the reason."""
    channels.nominate(account, images.tag(account, image.id, {f"{TAG}run": "20261122-1", f"{TAG}jenkins": "stand-in"}))

    [move] = read(account, "candidate").moves
    assert (image.id, "bake 20261122-1", ("jenkins",)) == (move.image, move.why, move.stand_ins)
