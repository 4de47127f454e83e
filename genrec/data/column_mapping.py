"""Column mapping: which column of the caller's table is which of genrec's columns."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from genrec.data.dialect import plain_name
from genrec.data.timestamps import ORDERS_WITHOUT_TIME, offer_orders
from genrec.errors import InputError, format_names, format_value
from genrec.notices import Notice

UNGUESSED = " with your own name for '...'"
"""The end of a remedy with a mapping in which "..." stands for a name that was not recognised."""

# Names that other data sets use, most likely first; compared without case and punctuation.
_COLUMN_ALIASES = {
    "user_id": "userid uid user customerid customer reviewerid visitorid memberid accountid profileid playerid "
    "personid clientid u sessionid session userids customeruniqueid steamid username reviewername",
    "item_id": "itemid iid item parentasin productid product movieid stockcode articleid newsid bookid asin isbn "
    "trackid songid artistid videoid gameid appid app businessid recipeid beerid animeid podcastid showid "
    "restaurantid placeid gmapid hotelid postid adid offerid jobid courseid sku i id",
    "timestamp": "timestamp unixtimestamp ts unixreviewtime reviewtime time datetime eventtime invoicedate "
    "orderdate purchasedate createdat date unixtime tdat timestampms dateadded",
    "title": "title name itemname productname itemtitle producttitle movietitle booktitle headline gamename appname "
    "prodname productdisplayname artistname trackname songname videotitle businessname description label caption",
}
# Names of any table's first column; as an item of an interaction, such a column is more likely the row's own number.
_VAGUE = frozenset({"id", "i"})
_OTHER_NAMES = "rating ratings event weight price genres category categories author authors artist url year"
# Separators in a header of one column that `genrec.data.dialect` does not look for.
_SEPARATORS = ("~", "::", ";", "\t", "|", "^", ",", "\x01")


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """The columns genrec wants from a table.

    Attributes:
        required: columns that must exist.
        optional: columns to take if they exist; None takes every column.
        names: genrec's name to the name in the source, for columns with another name there.
        id_from: columns of the source that item ids are made of, or "row"; see `genrec.data.composed_ids`.
        take: where every column is taken: the only ones that are, by their names in the source or genrec's, beside
            those that are required or in `names`.
    """

    required: Sequence[str]
    optional: Sequence[str] | None
    names: Mapping[str, str]
    id_from: Sequence[str] = ()
    take: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not _is_mapping_of_texts(self.names):
            raise InputError(
                f"columns is {format_value(self.names)}; pass a mapping of genrec's names to the source's, "
                "such as {'item_id': 'StockCode'}"
            )
        for option, value in (("id_from", self.id_from), ("take", self.take or ())):
            if isinstance(value, str) or not all(isinstance(name, str) and name for name in value):
                raise InputError(f"{option} is {format_value(value)}; pass a list of column names")
        if self.id_from and "item_id" in self.names:
            raise InputError(
                f"columns maps 'item_id' to {format_value(self.names['item_id'])}, and id_from makes item ids of "
                f"{format_names(list(map(repr, self.id_from)))}; use one of them"
            )
        if self.id_from:
            object.__setattr__(self, "required", [name for name in self.required if name != "item_id"])

    @property
    def takes_all(self) -> bool:
        """Whether every column of the source is wanted."""
        return self.optional is None and self.take is None

    @property
    def known_names(self) -> frozenset[str]:
        """Names that mark the first line of a file as a header, without case and punctuation."""
        ours = (*self.required, *(self.optional or ()), *self.names, *self.names.values())
        aliases = (alias for names in _COLUMN_ALIASES.values() for alias in names.split() if len(alias) > 1)
        return frozenset({*map(plain_name, ours), *aliases, *_OTHER_NAMES.split()})

    def needs(self, name: str) -> bool:
        """Whether the caller cannot do without a column, by genrec's name: it is required, or named by the caller."""
        return name in self.required or name in self.names

    def missing(self, columns: Sequence[str]) -> list[str]:
        """The required columns that a table with some columns lacks."""
        return [name for name in self.required if self._source_name(name) not in columns]

    def select(
        self, columns: Sequence[str], label: str, index_names: Sequence[str] = ()
    ) -> tuple[dict[str, str], list[Notice]]:
        """Choose the columns of a table.

        Args:
            columns: names of all columns of the source.
            label: the source's name, for messages.
            index_names: names of the index levels of a pandas data frame, for messages.

        Returns:
            genrec's name to the name in the source, in the order required, optional, others; and a notice of the
            required columns that were recognised by the names that other data sets use, if there are any.

        Raises:
            InputError: a required column is missing and not recognised, two columns share a name, or `names` does not
                fit the source.
        """
        repeated = sorted(name for name, count in Counter(columns).items() if count > 1)
        if repeated:
            raise InputError(f"{label} has more than one column {repeated[0]!r}; rename all but one")
        self._check_names(columns, label)
        self._check_taken(columns, label)
        missing = self.missing(columns)
        recognized = self._recognize(columns, missing)
        if unknown := [name for name in missing if name not in recognized]:
            raise self._missing_error(columns, label, index_names, unknown, recognized)
        notices = []
        if recognized:
            pairs = [f"{theirs!r} as {name}" for name, theirs in recognized.items()]
            notices.append(Notice("columns_recognized", {"source": label, "columns": pairs, "recognized": recognized}))
        completed = replace(self, names={**self.names, **recognized})
        return completed._choose(columns), notices

    def _choose(self, columns: Sequence[str]) -> dict[str, str]:
        ours = (*self.required, *(self.optional or ()))
        chosen = {name: self._source_name(name) for name in ours if self._source_name(name) in columns}
        if self.optional is None:
            renamed = {name: theirs for name, theirs in self.names.items() if name not in chosen}
            taken = {*self.names, *self.names.values(), *chosen, *(self.id_from and ("item_id",))}
            others = columns if self.take is None else self.take
            chosen |= renamed | {name: name for name in others if name not in taken}
        return chosen

    def _check_taken(self, columns: Sequence[str], label: str) -> None:
        for option, names in (("id_from", self.id_from), ("take", self.take or ())):
            ours = {"row"} if option == "id_from" else {*self.required, *self.names, *(self.id_from and ("item_id",))}
            if unknown := [name for name in names if name not in columns and name not in ours]:
                close = difflib.get_close_matches(unknown[0], columns, 1)
                raise InputError(
                    f"{option} names {unknown[0]!r}, which {label} lacks; its columns are "
                    f"{format_names(list(map(repr, columns)))}",
                    remedy=f"did you mean {close[0]!r}?" if close else "use some of these names",
                )

    def _missing_error(
        self,
        columns: Sequence[str],
        label: str,
        index_names: Sequence[str],
        unknown: Sequence[str],
        recognized: Mapping[str, str],
    ) -> InputError:
        """The error for required columns that are missing and not recognised."""
        problem = f"{label} has no column {' or '.join(map(repr, unknown))}; its columns are "
        problem += format_names(list(map(repr, columns)))
        passed = {name: theirs for name, theirs in self.names.items() if name not in unknown}
        suggested = {**passed, **recognized, **dict.fromkeys(unknown, "...")}
        if file_remedy := self._file_remedy(columns, unknown, index_names):
            return InputError(problem, remedy=file_remedy, code="missing_columns")
        remedy = f"pass columns={suggested!r}{UNGUESSED}"
        fields: dict[str, object] = {"columns": suggested}
        if "timestamp" in unknown:
            remedy += f", or without times {offer_orders(ORDERS_WITHOUT_TIME)}"
            fields["orders"] = ORDERS_WITHOUT_TIME
        return InputError(problem, remedy=remedy, code="missing_columns", **fields)

    def _source_name(self, name: str) -> str:
        return self.names.get(name, name)

    def _check_names(self, columns: Sequence[str], label: str) -> None:
        ours = (*self.required, *(self.optional or ()))
        for name, theirs in self.names.items():
            if theirs not in columns:
                pair = f"{format_value(name)} to {format_value(theirs)}"
                problem = f"columns maps {pair}, which {label} lacks; its columns are "
                problem += format_names(list(map(format_value, columns)))
                if name in columns and theirs in ours:
                    swapped = {str(theirs): name}
                    remedy = f"the mapping is the other way round, pass columns={swapped!r}"
                    raise InputError(problem, remedy=remedy, code="swapped_mapping", columns=swapped)
                close = difflib.get_close_matches(str(theirs), columns, 1)
                raise InputError(problem, remedy=f"did you mean {close[0]!r}?" if close else "use one of these names")
            if self.optional is not None and name not in ours:
                raise InputError(
                    f"columns maps {format_value(name)}, which is not used here; use only {', '.join(ours)}"
                )

    def _file_remedy(self, columns: Sequence[str], missing: Sequence[str], index_names: Sequence[str]) -> str | None:
        """What to do about a file or a frame that no mapping of columns would fix."""
        index = [name for name in index_names if name in missing]
        if index:
            return f"{index[0]!r} is the frame's index, pass frame.reset_index()"
        if len(columns) == 1 and (mark := next((sign for sign in _SEPARATORS if sign in columns[0]), None)):
            return f"the file looks separated by {mark!r}; save it with commas as .csv, or with tabs as .tsv"
        return None

    def _recognize(self, columns: Sequence[str], missing: Sequence[str]) -> dict[str, str]:
        """Missing columns by the names that other data sets use."""
        taken = {self._source_name(name) for name in self.required if name not in missing}
        taken |= set(self.names.values())
        plain = {plain_name(name): name for name in reversed(columns) if name not in taken}
        is_events = "user_id" in self.required
        found: dict[str, str] = {}
        for name in missing:
            aliases = _COLUMN_ALIASES.get(name, "").split()
            known = [plain.get(alias) for alias in aliases if not (is_events and name == "item_id" and alias in _VAGUE)]
            theirs = next((known_name for known_name in known if known_name and known_name not in found.values()), None)
            if theirs is not None:
                found[name] = theirs
        return found


def _is_mapping_of_texts(columns: object) -> bool:
    return isinstance(columns, Mapping) and all(isinstance(name, str) for pair in columns.items() for name in pair)
