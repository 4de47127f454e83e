"""Commands on interactions in every unit of time, and without times."""

import json
import time
from pathlib import Path

import httpx
import pytest
from command_line import NO_MODELS, run
from serving import started

MILLISECONDS = "user_id,item_id,timestamp\nu1,a,1290000000000\nu1,b,1295000000000\nu2,b,1296000000000\n"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 30 items, and plays of 40 users without times, as the current folder."""
    monkeypatch.chdir(tmp_path)
    items = [f"{number}\tArtist {number}" for number in range(30)]
    Path("artists.dat").write_text("\n".join(["id\tname", *items]), encoding="utf-8")
    plays = [f"{user}\t{(user * 7 + place * place) % 30}\t{place}" for user in range(40) for place in range(6)]
    Path("plays.dat").write_text("\n".join(["userID\tartistID\tweight", *plays]), encoding="utf-8")
    return tmp_path


PLAYS = ("--items", "artists.dat", "--interactions", "plays.dat")


def test_without_times_the_error_names_what_to_pass_and_each_of_it_works(shop: Path) -> None:
    """The first command on a data set without times fails; the second must not."""
    failed = run("recommend", "2", *PLAYS, *NO_MODELS)
    assert failed.exit_code == 2
    assert "--columns interactions.timestamp=..." in failed.err
    assert "--order rows if the rows are in order of time, or --order none if they are in no order" in failed.err
    for order in ("rows", "none"):
        assert run("recommend", "2", *PLAYS, "--order", order, *NO_MODELS, "--json").exit_code == 0


def test_rows_end_histories_with_the_last_rows(shop: Path) -> None:
    """A prompt that ends with any other item asks for what comes after an old one."""
    shown = run("prompt", "render", "next-item", "--user", "2", *PLAYS, "--order", "rows", "--json").out
    places = [shown.index(f"Artist {(14 + place * place) % 30}") for place in range(6)]
    assert places == sorted(places)


@pytest.mark.parametrize(("order", "protocol"), [("rows", "leave-one-out"), ("none", "random")])
def test_evaluate_takes_a_protocol_that_fits_and_says_which(shop: Path, order: str, protocol: str) -> None:
    """A figure for the last item of a file in no order is a figure for the file's sorting."""
    command = ("evaluate", *PLAYS, "--order", order, *NO_MODELS)
    report = run(*command, "--json").json
    assert (report["protocol"], report["order"], report["users"]) == (protocol, order, 40)
    assert f"40 users, {protocol} " in run(*command).out
    refused = run(*command, "--protocol", "next-basket")
    assert refused.exit_code == 2
    assert f"--protocol next-basket does not fit --order {order}; choose from {protocol}" in refused.err


def test_a_random_hold_out_is_for_events_without_an_order(shop: Path) -> None:
    """With times, it lets rankers learn from the future."""
    refused = run("evaluate", "--protocol", "random", *NO_MODELS)
    assert (refused.exit_code, "--protocol random does not fit --order time" in refused.err) == (2, True)


def test_a_file_sorted_by_item_is_offered_an_evaluation_without_an_order(shop: Path) -> None:
    """The order of such a file is known to be none; the user must learn how to say it."""
    plays = [f"{user}\t{item}" for user in range(20) for item in range(user % 5, user % 5 + 5)]
    Path("plays.dat").write_text("\n".join(["userID\tartistID", *plays]), encoding="utf-8")
    refused = run("evaluate", *PLAYS, "--order", "rows", *NO_MODELS)
    assert refused.exit_code == 2
    assert "sorted by titles, not by time; pass --order none to use no order" in refused.err
    assert run("evaluate", *PLAYS, "--order", "none", *NO_MODELS).exit_code == 0


def test_the_unit_is_shown_and_can_be_set(files: Path) -> None:
    """A unit that was taken wrongly must be seen at the first command."""
    Path("events.csv").write_text(MILLISECONDS, encoding="utf-8")
    ours = ("data", "describe", "--items", "items.csv", "--interactions", "events.csv")
    shown = run(*ours, "--json")
    assert "read as milliseconds since 1970; to change it, set order" in shown.err
    described = shown.json["interactions"]
    assert (described["first"], described["last"]) == ("2010-11-17T13:20Z", "2011-01-26T00:00Z")
    given = run(*ours, "--order", "ms", "--json")
    assert (given.json, given.err) == (shown.json, "")
    Path("events.csv").write_text(MILLISECONDS.replace("1295000000000", "1295000000"), encoding="utf-8")
    mixed = run(*ours)
    assert mixed.exit_code == 2
    assert "data row 2 of events.csv has a timestamp such as 1295000000, but data row" in mixed.err
    assert "--order ms to read all of them as milliseconds" in mixed.err


@pytest.mark.parametrize("order", [(), ("--order", "rows"), ("--order", "none")])
def test_a_live_event_comes_after_those_of_the_file(files: Path, order: tuple[str, ...]) -> None:
    """A server that takes milliseconds for seconds believes that everything that happens now is long past."""
    Path("events.csv").write_text(MILLISECONDS, encoding="utf-8")
    arguments = ["--port", 0, "--items", "items.csv", "--interactions", "events.csv", "--ranker", "popularity", *order]
    with started(arguments, XDG_STATE_HOME=str(files)) as (_, address):
        event = {"user_id": "u1", "item_id": "c", "timestamp": time.time()}
        assert httpx.post(f"{address}v1/events", json={"events": [event]}).json()["added"] == 1
        items = httpx.get(f"{address}v1/users/u1/history").json()["items"]
    assert [item["item_id"] for item in items][-1] == "c"
    assert json.dumps(sorted(item["item_id"] for item in items)) == '["a", "b", "c"]'
