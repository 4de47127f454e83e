"""Notices: what a caller should know about a result, as a code with fields and one sentence.

Programs read `code` and `fields`; only `str(notice)` is for people.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

SENTENCES: Mapping[str, str] = {
    # how a list was made
    "stage_skipped": "{stage} was skipped",
    "explanation_skipped": "no reasons for the items from {stage}",
    "items_missing": (
        "{count} items are missing because no stage could rank them; end the fallback chain with popularity"
    ),
    "nothing_allowed": "no item is allowed",
    "few_allowed": "only {allowed} of the {k} requested items are allowed",
    "unknown_user": "user {user_id!r} is unknown",
    "unknown_user_skipped": "user {user_id!r} is unknown; skipped",
    "unknown_history_items": "{count} of {total} history items are not in the catalog and were ignored",
    "history_truncated": (
        "the prompt shows the newest {shown} of {total} history items; the rest does not fit {max_tokens} tokens"
    ),
    # what the recommender lacks
    "no_language_model": "no language model",
    "no_embedding_ranker": "no embedding ranker",
    # how an adapter's training differs from what it serves here
    "adapter_differs": "the adapter was trained with {name} {trained:.12}, but serves {name} {served:.12}",
    "adapter_setting_differs": "the adapter was trained with {name} = {trained:g}, but serves with {served:g}",
    "adapter_prior": "the prior is measured with the adapter; training used the prior of {base} without the adapter",
}
"""The sentence of each code, with its fields in braces; a field `reason` follows it after a colon."""


@dataclass(frozen=True)
class Notice:
    """Something a caller should know.

    Attributes:
        code: what it is about, a key of `SENTENCES`.
        fields: the values that the sentence names. A `reason` quotes an error, which may name paths of this machine.
    """

    code: str
    fields: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        str(self)  # raises here if the code is unknown or a field is missing

    def __str__(self) -> str:
        sentence = SENTENCES[self.code].format_map(self.fields)
        return f"{sentence}: {self.fields['reason']}" if "reason" in self.fields else sentence

    def without_reason(self) -> "Notice":
        """The same notice without its reason, which may name paths of this machine."""
        return Notice(self.code, {name: value for name, value in self.fields.items() if name != "reason"})
