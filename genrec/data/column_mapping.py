"""Column mapping: which column of the caller's table is which of genrec's columns."""

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genrec.errors import InputError, format_names, format_value

UNGUESSED = " with your own name for '...'"
"""The end of a remedy with a mapping in which "..." stands for a name that was not recognised."""

# Names that other data sets use, most likely first; compared without case and punctuation.
_COLUMN_ALIASES = {
    "user_id": "userid uid user customerid customer reviewerid visitorid memberid accountid profileid playerid "
    "personid clientid u sessionid session",
    "item_id": "itemid iid item parentasin asin productid product movieid stockcode articleid newsid bookid isbn "
    "trackid songid artistid videoid gameid appid businessid sku i id",
    "timestamp": "timestamp unixtimestamp ts unixreviewtime reviewtime time datetime eventtime invoicedate "
    "orderdate purchasedate createdat date unixtime",
    "title": "title name itemname productname itemtitle producttitle movietitle booktitle headline description label",
}
_SEPARATORS = ("::", ";", "\t", "|", "^", ",", "~", "\x01")


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """The columns genrec wants from a table.

    Attributes:
        required: columns that must exist.
        optional: columns to take if they exist; None takes every column.
        names: genrec's name to the name in the source, for columns with another name there.
    """

    required: Sequence[str]
    optional: Sequence[str] | None
    names: Mapping[str, str]

    def select(self, columns: Sequence[str], label: str, index_names: Sequence[str] = ()) -> dict[str, str]:
        """Choose the columns of a table.

        Args:
            columns: names of all columns of the source.
            label: the source's name, for messages.
            index_names: names of the index levels of a pandas data frame, for messages.

        Returns:
            genrec's name to the name in the source, in the order required, optional, others.

        Raises:
            InputError: a required column is missing, two columns share a name, or `names` does not fit the source.
        """
        repeated = sorted(name for name, count in Counter(columns).items() if count > 1)
        if repeated:
            raise InputError(f"{label} has more than one column {repeated[0]!r}; rename all but one")
        self._check_names(columns, label)
        ours = (*self.required, *(self.optional or ()))
        missing = [name for name in self.required if self._source_name(name) not in columns]
        if missing:
            problem = f"{label} has no column {' or '.join(map(repr, missing))}; its columns are "
            problem += format_names(list(map(repr, columns)))
            suggested = self._suggest(columns, missing)
            if file_remedy := self._file_remedy(columns, missing, index_names, suggested):
                raise InputError(problem, remedy=file_remedy, code="missing_columns")
            remedy = f"pass columns={suggested!r}" + (UNGUESSED if "..." in suggested.values() else "")
            raise InputError(problem, remedy=remedy, code="missing_columns", columns=suggested)
        chosen = {name: self._source_name(name) for name in ours if self._source_name(name) in columns}
        if self.optional is None:
            renamed = {name: theirs for name, theirs in self.names.items() if name not in chosen}
            taken = {*self.names, *self.names.values(), *chosen}
            chosen |= renamed | {name: name for name in columns if name not in taken}
        return chosen

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

    def _file_remedy(
        self,
        columns: Sequence[str],
        missing: Sequence[str],
        index_names: Sequence[str],
        suggested: Mapping[str, str],
    ) -> str | None:
        """What to do about a file or a frame that no mapping of columns would fix."""
        index = [name for name in index_names if name in missing]
        if index:
            return f"{index[0]!r} is the frame's index, pass frame.reset_index()"
        if columns and (declared := re.fullmatch(r"sep=(.?)", columns[0])):
            resave = f", and {_resave(declared[1])}" if declared[1] else ""
            return f"remove the first line, which is for Excel only{resave}"
        if len(columns) == 1 and (mark := next((sign for sign in _SEPARATORS if sign in columns[0]), None)):
            return f"the file looks separated by {mark!r}; {_resave(mark)}"
        if columns and columns[0].startswith("#") and "..." in suggested.values():
            return "the first line begins with '#'; if it is a comment, remove it, because the header must come first"
        if columns and all(re.fullmatch(r"[-+\d.:]+", name) for name in columns):
            return f"the file seems to lack a header line; add one as the first line, such as {','.join(self.required)}"
        return None

    def _suggest(self, columns: Sequence[str], missing: Sequence[str]) -> dict[str, str]:
        """The mapping to pass: columns by names that other data sets use, "..." where none is recognised."""
        taken = {self._source_name(name) for name in self.required if name not in missing}
        plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(columns) if name not in taken}
        found: dict[str, str] = {}
        for name in missing:
            known = (plain.get(alias) for alias in _COLUMN_ALIASES.get(name, "").split())
            found[name] = next((theirs for theirs in known if theirs and theirs not in found.values()), "...")
        passed = {name: theirs for name, theirs in self.names.items() if name not in missing}
        return {**passed, **found}


def _resave(separator: str) -> str:
    """How to make a table of a file with another separator than its suffix says."""
    rename = {",": ", or rename it to .csv", "\t": ", or rename it to .tsv"}.get(separator, "")
    return f"save it with commas as .csv, or with tabs as .tsv{rename}"
