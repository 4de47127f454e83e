"""Well-known data sets: a few invented rows in the layout in which each is published, read with one call."""

import gzip
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from genrec.data.catalog import read_catalog
from genrec.data.file_options import FileFormat
from genrec.data.interactions import read_interactions
from genrec.errors import InputError

_FLAGS = "|".join("0" * 19)
RATINGS = FileFormat(names=["user_id", "item_id", "rating", "timestamp"])


def written(folder: Path, name: str, content: str | Sequence[Mapping[str, Any]], encoding: str = "utf-8") -> Path:
    """A file of text, or of JSON objects, one a line; compressed if its name says so."""
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    data = text.encode(encoding)
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


ITEMS: Mapping[str, tuple[str | Sequence[Mapping[str, Any]], Mapping[str, Any], list[str], Mapping[str, Any]]] = {
    # name: content, options, titles, attributes of the first item
    "u.item": (  # MovieLens 100k: Latin-1, 24 columns without names
        f"1|Toy Box (1995)|01-Jan-1995||http://x?Toy%20Box|{_FLAGS}\n2|Café Noir (1994)|01-Jan-1994||http://x|{_FLAGS}\n",
        {"file_format": FileFormat(encoding="latin-1", names=["item_id", "title", "released"])},
        ["Toy Box (1995)", "Café Noir (1994)"],
        {"year": 1995, "released": "01-Jan-1995"},
    ),
    "movies.dat": (  # MovieLens 1M
        "1::Toy Box (1995)::Animation|Children's\n2::Café Noir (1994)::Drama\n3::Heat, The (1996)::Action|Crime\n",
        {"file_format": FileFormat(encoding="latin-1", names=["item_id", "title", "genres"])},
        ["Toy Box (1995)", "Café Noir (1994)", "Heat, The (1996)"],
        {"genres": ["Animation", "Children's"], "year": 1995},
    ),
    "movies.csv": (  # MovieLens latest
        'movieId,title,genres\n1,Toy Box (1995),Adventure|Animation\n2,"Heat, The (1996)",(no genres listed)\n',
        {},
        ["Toy Box (1995)", "Heat, The (1996)"],
        {"genres": ["Adventure", "Animation"], "year": 1995},
    ),
    "meta_Gift_Cards.json.gz": (  # Amazon 2018
        [
            {"title": "Gift &amp; Card", "rank": ["5 in Cards"], "details": {"ASIN:": "B01"}, "price": "$25.00"}
            | {"asin": "B01"},
            {"title": "Mug", "rank": "17 in Cards", "details": {}, "price": "", "asin": "B02"},
        ],
        {},
        ["Gift & Card", "Mug"],
        {"price": 25.0},
    ),
    "meta_All_Beauty.jsonl.gz": (  # Amazon 2023
        [
            {"main_category": "All Beauty", "title": "Spray", "price": None, "parent_asin": "B01", "categories": []},
            {"main_category": "All Beauty", "title": "Soap", "price": 12.5, "parent_asin": "B02", "categories": ["a"]},
        ],
        {},
        ["Spray", "Soap"],
        {"price": None, "main_category": "All Beauty"},
    ),
    "yelp_academic_dataset_business.json": (
        [
            {"business_id": "-1Ye", "name": "Cafe One", "postal_code": "85711", "stars": 4.0, "attributes": {"a": "1"}},
            {"business_id": "b2", "name": "Cafe Two", "postal_code": "63123", "stars": 3.5, "attributes": None},
        ],
        {},
        ["Cafe One", "Cafe Two"],
        {"postal_code": "85711", "stars": 4.0},
    ),
    "artists.dat": (  # Last.fm, HetRec 2011
        "id\tname\turl\tpictureURL\n1\tMALICE\thttp://x\thttp://y\n2\t!!!\thttp://x\thttp://y\n",
        {},
        ["MALICE", "!!!"],
        {"url": "http://x"},
    ),
    "goodreads_books.json.gz": (  # numbers are text, and asin is mostly empty
        [
            {"isbn": "0312853122", "asin": "", "book_id": "5333265", "average_rating": "4.00", "title": "Fields"},
            {"isbn": "", "asin": "B000", "book_id": "1333909", "average_rating": "3.23", "title": "Harbor"},
        ],
        {},
        ["Fields", "Harbor"],
        {"average_rating": 4.0, "isbn": "0312853122"},
    ),
    "BX-Books.csv": (  # Book-Crossing
        '"ISBN";"Book-Title";"Book-Author"\n"0195153448";"The \\"Clé\\" &amp; Co";"M. Morford"\n',
        {"file_format": FileFormat(encoding="latin-1")},
        ['The "Clé" & Co'],
        {"Book-Author": "M. Morford"},
    ),
    "steam.csv": (
        "appid,name,english,platforms,price\n10,Counter,1,windows;mac,7.19\n20,Team,1,windows,3.99\n",
        {},
        ["Counter", "Team"],
        {"price": 7.19},
    ),
    "articles.csv": (  # H&M
        "article_id,product_code,prod_name,detail_desc\n0108775015,0108775,Strap top,A\n0108775044,0108775,Top,B\n",
        {},
        ["Strap top", "Top"],
        {"product_code": "0108775"},
    ),
    "kuairec_caption_category.csv": (  # KuaiRec
        "video_id,manual_cover_text,caption,topic_tag\n3649,UNKNOWN,精神小伙,[]\n9598,UNKNOWN,校园,[]\n",
        {},
        ["精神小伙", "校园"],
        {"manual_cover_text": "UNKNOWN"},
    ),
}


@pytest.mark.parametrize("name", ITEMS)
def test_the_items_of_a_known_data_set_are_read(tmp_path: Path, name: str) -> None:
    """Most people try a data set that they know first, and a script before the first list loses them."""
    content, options, titles, attributes = ITEMS[name]
    encoding = "latin-1" if name in ("u.item", "movies.dat", "BX-Books.csv") else "utf-8"
    catalog = read_catalog(written(tmp_path, name, content, encoding), **options)
    assert list(catalog.titles) == titles
    assert {key: catalog[0].attributes[key] for key in attributes} == attributes


INTERACTIONS: Mapping[str, tuple[str | Sequence[Mapping[str, Any]], Mapping[str, Any], tuple[str, list[str]]]] = {
    # name: content, options, the first user and the items of this user in order
    "u.data": ("196\t1\t3\t881250949\n186\t2\t3\t891717742\n", {"file_format": RATINGS}, ("196", ["1"])),
    "ratings.dat": ("1::7::5::978300760\n1::2::3::978302109\n", {"file_format": RATINGS}, ("1", ["7", "2"])),
    "ratings.csv": ("userId,movieId,rating,timestamp\n1,9,4.0,964982703\n1,8,4.0,964981247\n", {}, ("1", ["8", "9"])),
    "ratings_Books.csv": (  # Amazon 2014
        "AH2L,0000000116,4.0,1019865600\nA2II,0000000116,1.0,1395619200\n",
        {"file_format": RATINGS},
        ("AH2L", ["0000000116"]),
    ),
    "reviews_Books_5.json.gz": (  # Amazon 2014 and 2018
        [{"reviewerID": "A1", "asin": "0000000116", "overall": 5.0, "unixReviewTime": 1252800000, "reviewTime": "x"}],
        {},
        ("A1", ["0000000116"]),
    ),
    "All_Beauty.jsonl.gz": (  # Amazon 2023: the title is that of the review
        [
            {"title": "Nice", "asin": "B00", "parent_asin": "B01", "user_id": "AG", "timestamp": 1588687729923},
            {"title": "Bad", "asin": "B02", "parent_asin": "B02", "user_id": "AG", "timestamp": 1588687728923},
        ],
        {},
        ("AG", ["B02", "B01"]),
    ),
    "yelp_academic_dataset_review.json": (
        [
            {"user_id": "u1", "business_id": "-1Ye", "stars": 3.0, "text": "t", "date": "2018-07-07 22:09:11"},
            {"user_id": "u1", "business_id": "b2", "stars": 5.0, "text": "t", "date": "2012-01-03 15:28:18"},
        ],
        {},
        ("u1", ["b2", "-1Ye"]),
    ),
    "usersha1-artmbid-artname-plays.tsv": (  # Last.fm 360k: some artists have no MBID
        "0000\t3bd73256\tbetty\t2137\n0000\t\tdie Ärzte\t1099\n",
        {"file_format": FileFormat(names=["user_id", "_", "item_id", "weight"]), "order": "rows"},
        ("0000", ["betty", "die Ärzte"]),
    ),
    "user_artists.dat": (
        "userID\tartistID\tweight\r\n2\t1\t13883\r\n2\t3\t9\r\n",
        {"order": "rows"},
        ("2", ["1", "3"]),
    ),
    "goodreads_interactions.csv": (
        "user_id,book_id,is_read,rating,is_reviewed\n0,5333265,1,5,0\n0,1333909,1,4,0\n",
        {"order": "rows"},
        ("0", ["5333265", "1333909"]),
    ),
    "BX-Book-Ratings.csv": (
        '"User-ID";"ISBN";"Book-Rating"\n"276725";"0195153448";"0"\n',
        {"order": "rows"},
        ("276725", ["0195153448"]),
    ),
    "steam-200k.csv": (
        '15,"The Elder Keep V",purchase,1.0,0\n15,Fallcity 4,play,273.0,0\n',
        {"file_format": FileFormat(names=["user_id", "item_id", "event", "weight", "_"]), "order": "rows"},
        ("15", ["The Elder Keep V", "Fallcity 4"]),
    ),
    "recommendations.csv": (
        "app_id,helpful,date,is_recommended,hours,user_id,review_id\n13500,0,2022-12-12,true,36.3,51580,0\n",
        {},
        ("51580", ["13500"]),
    ),
    "events.csv": (  # RetailRocket
        "timestamp,visitorid,event,itemid,transactionid\n1433224214164,9,addtocart,2,\n1433221332117,9,view,3,\n",
        {},
        ("9", ["3", "2"]),
    ),
    "transactions_train.csv": (  # H&M
        "t_dat,customer_id,article_id,price,sales_channel_id\n2018-09-20,000058a1,0108775015,0.05,2\n",
        {},
        ("000058a1", ["0108775015"]),
    ),
    "big_matrix.csv": (  # KuaiRec
        "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
        "0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.27\n",
        {},
        ("0", ["3649"]),
    ),
}


@pytest.mark.parametrize("name", INTERACTIONS)
def test_the_interactions_of_a_known_data_set_are_read(tmp_path: Path, name: str) -> None:
    """The unit of time, the order and the ids with zeros are those of the data set."""
    content, options, (user_id, item_ids) = INTERACTIONS[name]
    read = read_interactions(written(tmp_path, name, content), **options)
    (history,) = [history for history in read.histories() if str(history.user_id) == user_id]
    assert [str(item_id) for item_id in history.item_ids] == item_ids


def test_the_netflix_prize_is_told_with_the_command_that_makes_a_table(tmp_path: Path) -> None:
    """Its films stand on lines of their own, which no reader of tables understands; a remedy must work as written."""
    path = written(tmp_path, "combined_data_1.txt", "1:\n1488844,3,2005-09-06\n2:\n2059652,4,2005-09-05\n")
    with pytest.raises(InputError, match="as in the Netflix Prize") as caught:
        read_interactions(path)
    subprocess.run(str(caught.value).split("for example: ")[1], shell=True, check=True, cwd=tmp_path)
    read = read_interactions(tmp_path / "ratings.csv", file_format=RATINGS)
    assert [str(item_id) for history in read.histories() for item_id in history.item_ids] == ["1", "2"]


def test_python_dicts_of_amazon_and_steam_name_the_conversion(tmp_path: Path) -> None:
    """Metadata of 2014 and the reviews of Steam are Python, not JSON, and are never evaluated."""
    path = written(tmp_path, "meta_Books.json.gz", "{'asin': '0000000116', 'title': \"Bob's Mug\", 'price': 6.99}\n")
    with pytest.raises(InputError, match="written as a Python dict; convert the file"):
        read_catalog(path)


def test_one_letter_does_not_decide_between_alphabets(tmp_path: Path) -> None:
    """A word of Latin letters with a Greek one in it is in another encoding: "Café" is none of Greek."""
    path = written(tmp_path, "movies.dat", "1::Toy Box::a\n2::Café Noir::b\n3::Heat, The::a\n", "latin-1")
    with pytest.raises(InputError, match=r"'2::Café Noir::b' in cp1252; name the right one") as caught:
        read_catalog(path, file_format=FileFormat(names=["item_id", "title", "genres"]))
    assert "Caf\u03b9" not in str(caught.value)
