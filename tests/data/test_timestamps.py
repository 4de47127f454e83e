"""Times of events: every unit and form is the same time, and events without times have the order that is given."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec import Interactions, read_interactions
from genrec.data.timestamps import OrderChoice
from genrec.errors import InputError

FIRST, LAST = 1_290_000_000, 1_295_000_000
FACTORS: dict[OrderChoice, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def log(times: Any, order: OrderChoice = "time") -> Interactions:
    """The events of one user with the items 0, 1, 2 and so on."""
    count = len(times)
    table = pa.table({"user_id": ["u"] * count, "item_id": list(range(count)), "timestamp": times})
    return read_interactions(table, order=order)


def items(read: Interactions) -> list[Any]:
    return list(read.histories()[0].item_ids)


@pytest.mark.parametrize("unit", FACTORS)
@pytest.mark.parametrize("kind", [int, float, str])
def test_times_in_every_unit_become_seconds_and_are_shown(unit: OrderChoice, kind: type) -> None:
    """Milliseconds taken for seconds lie in the year 42,000: every live event would be older than the file."""
    times = [kind(second * FACTORS[unit]) for second in (LAST, FIRST)]
    read = log(times)
    assert (read.order, read.timestamps.tolist()) == ("time", [FIRST, LAST])
    assert items(read) == [1, 0]
    (notice,) = read.notices
    said = f"timestamps from 2010-11-17T13:20Z to 2011-01-14T10:13Z, read as {WORDS[unit]} since 1970"
    assert said in str(notice)
    given = log(times, unit)
    assert given.fingerprint == read.fingerprint
    assert given.notices == ()


@given(st.lists(st.integers(0, 700_000_000), min_size=1, max_size=20))
def test_small_numbers_stay_order_numbers(numbers: list[int]) -> None:
    """The fifth event of a user is no event of 1970."""
    read = log(numbers)
    assert read.order == "numbers"
    assert read.timestamps.tolist() == sorted(numbers)
    assert "read as order numbers" in str(read.notices[0])
    assert log(numbers, "numbers").fingerprint == read.fingerprint


@pytest.mark.parametrize("odd", [0, -428_720_400_000, 253_402_300_799_000])
def test_a_few_times_outside_the_usual_years_do_not_hide_the_unit(odd: int) -> None:
    """Public logs have zeros, times before 1970 and the year 9999 among their times."""
    read = log([1_290_000_000_000, odd, 1_295_000_000_000])
    assert (read.order, sorted(read.timestamps)) == ("time", sorted([FIRST, odd / 1000, LAST]))


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([FIRST, FIRST * 1000], ["data row 1", "1290000000,", "data row 2 has 1290000000000, as in milliseconds"]),
        ([FIRST * 1000, FIRST * 1000, FIRST], ["data row 3", "order='s' to read all of them as seconds"]),
        ([1, 2, 3, FIRST * 1000], ["data rows 1, 2 and 3", "order='numbers' as order numbers"]),
        ([20_101_117_132_000, 20_101_117_132_000], ["20101117132000, no time of 1995 to 2100", "order='s'"]),
    ],
)
def test_numbers_of_several_units_or_of_none_are_refused_with_their_rows(times: list[int], words: list[str]) -> None:
    """One half of the log would otherwise come before the other, whatever happened first."""
    with pytest.raises(InputError) as caught:
        log(times)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert log(times, "s").timestamps.tolist() == sorted(times)


def test_texts_with_and_without_zones_and_dates_are_one_scale() -> None:
    """Without it an event of noon in Tokyo comes after one of the same morning in London."""
    times = ["2011-12-09T12:50:00+02:00", "2011-12-09T11:00:00", "2011-12-09T10:51:00Z", "2011-12-09"]
    read = log(times)
    assert items(read) == [3, 0, 2, 1]
    assert read.timestamps[1] == datetime(2011, 12, 9, 10, 50, tzinfo=UTC).timestamp()
    assert "from 2011-12-09T00:00Z to 2011-12-09T11:00Z, read as dates, in UTC where no zone is given" in str(
        read.notices[0]
    )
    assert "dates" in str(log(np.array(["2011-12-09"], "datetime64[s]")).notices[0])


@pytest.mark.parametrize(
    ("times", "order", "message"),
    [
        (["2011-12-09"], "ms", "order is 'ms', but timestamp of the data frame has dates; omit order"),
        ([None, 5], "time", "data row 1 of the data frame has no timestamp"),
        (["5", "2011-12-09"], "time", "data row 1 .* such as '5'"),
        ([1, 2], "minutes", "order is 'minutes'; use time, s, ms, us, ns, numbers, rows or none"),
        ([1, 2], None, "order is None; use"),
    ],
)
def test_what_is_no_time_is_refused(times: Any, order: Any, message: str) -> None:
    """A row without a time would otherwise be the oldest or the newest by chance."""
    with pytest.raises(InputError, match=message):
        log(times, order)


def test_a_table_without_times_names_the_mapping_and_both_orders(tmp_path: Path) -> None:
    """Six of ten real data sets have no times; who is told only of a missing column gives up."""
    path = tmp_path / "plays.dat"
    path.write_bytes(b"userID\tartistID\tweight\r\n2\t52\t13883\r\n2\t51\t11690\n3\t51\t4\n")
    with pytest.raises(InputError) as caught:
        read_interactions(path)
    assert str(caught.value).endswith(
        "its columns are 'userID', 'artistID', 'weight'; pass columns={'user_id': 'userID', 'item_id': 'artistID', "
        "'timestamp': '...'} with your own name for '...', or without times order='rows' if the rows are in order of "
        "time, or order='none' if they are in no order"
    )
    read = read_interactions(path, order="rows")
    assert (read.order, read.histories(["2"])[0].item_ids) == ("rows", ("52", "51"))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_with_rows_a_history_is_the_rows_of_its_user_in_the_order_of_the_file(users: list[str]) -> None:
    """Otherwise the item that is held out, or that a prompt shows last, is not the newest one."""
    times = list(range(len(users), 0, -1))  # ignored
    table = pa.table({"user_id": users, "item_id": list(range(len(users))), "timestamp": times})
    read = read_interactions(table, order="rows")
    for history in read.histories():
        assert list(history.item_ids) == [row for row, user in enumerate(users) if user == history.user_id]


def test_a_file_without_header_and_times_is_offered_names_and_an_order(tmp_path: Path) -> None:
    """Its last column would otherwise be offered as a time, and counts of plays would order the history."""
    path = tmp_path / "plays.dat"
    path.write_text("2\t52\t13883\n2\t51\t11690\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"names=\['user_id', 'item_id', 'column_3'\]\), and .* order='none'"):
        read_interactions(path)
    path.write_text("2\t52\t5\t978300760\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"names=\['user_id', 'item_id', 'rating', 'timestamp'\]\)$"):
        read_interactions(path)
