"""Notices for the caller of a request: a code, fields, and one sentence.

Programs read `code` and `fields`; `str(notice)` is for humans.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

SENTENCES: Mapping[str, str] = {
    # files and data frames
    "file_form": "{source} was read with {found}",
    "file_form_set": "{source} was read with {found}; to change it, set {options}",
    "columns_recognized": "{source}: read {columns}; to change it, set columns",
    "column_left_out": "column {column!r} of {source} was left out, because it {why}",
    "timestamps_read": "{source}: timestamps from {first} to {last}, read as {unit}; to change it, set order",
    "columns_typed": "{source}: read {columns}; to change it, set types",
    "values_missing": (
        "values of column {column!r} of {source} are read as missing ({count:,}), because they are not {what}, such as "
        "{value} in row {row:,}"
    ),
    "column_ambiguous": (
        "column {column!r} of {source} stays text, because {why}; to read it, set types to one of {types}"
    ),
    "entities_decoded": "HTML entities in titles of {source} were decoded ({count:,}), such as {before!r} to {after!r}",
    "text_columns": "items are searched and compared by their {columns}; to change it, set text",
    # recommendation lists
    "stage_skipped": "{stage} was skipped",
    "explanation_skipped": "reasons for the items from {stage} were skipped",
    "items_missing": (
        "{count} items are missing because no stage could rank them; end the fallback chain with popularity"
    ),
    "nothing_allowed": "no item is allowed",
    "few_allowed": "only {allowed} of the {k} requested items are allowed",
    "unknown_user": "user {user_id!r} is unknown",
    "unknown_user_skipped": "user {user_id!r} is unknown; skipped",
    "unknown_history_items": "{count} of {total} history items are not in the catalog and were ignored",
    "withdrawn_items": "items that were withdrawn from the catalog were ignored ({count}): {item_ids}",
    "history_truncated": (
        "the prompt shows only the newest {shown} of {total} history items, because it is limited to {max_tokens} "
        "tokens"
    ),
    "message_cut": "only the first {read:,} of {total:,} characters of the message were read",
    "words_ignored": "no stage that served this list reads words, so {words!r} was ignored",
    # requests of chat clients
    "parameters_ignored": "these parameters have no effect: {names}",
    "messages_ignored": "messages with these roles are ignored: {roles}",
    "parts_ignored": "parts of these types are ignored, because only text is read: {types}",
    # missing parts of the recommender
    "cache_not_writable": "the cache folder is not writable, so slow results are computed again at every start",
    "no_language_model": "no language model",
    "model_unreachable": "the server of the language model is unavailable",
    "no_embedding_ranker": "no embedding ranker",
    "texts_unreadable": (
        "the encoder {encoder} cannot read the texts of {count:,} of {total:,} items, so these are searched by their "
        "letters only; set encoder to a multilingual one, such as "
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
    ),
    "reasoning_skipped": (
        "the model was trained to reason first (its chat template opens answers with {generation_prompt!r}), but it "
        "answers without reasoning here; choose a model that answers directly, or serve it behind an API with "
        "api_reasoning_tokens, where it may reason"
    ),
    "chat_template_arguments_ignored": (
        "the model's chat template does not read these arguments, so they have no effect: {names}; correct "
        "their names, or omit them"
    ),
    # differences between an adapter's training and serving
    "adapter_differs": "the adapter was trained with {name} {trained:.12}, but is used with {name} {served:.12}",
    "adapter_setting_differs": "the adapter was trained with {name} = {trained:g}, but is used with {served:g}",
    "adapter_data_unknown": (
        "the training data of the adapter {adapter} is not fully recorded; held-out items may be in its training "
        "interactions"
    ),
    "leakage": (
        "{leaked:,} of {targets:,} held-out items may have been learned by the adapter {adapter}; the accuracy of the "
        "language model is overstated"
    ),
    "adapter_forgotten_users": (
        "the adapter {adapter} may have been trained on {count:,} users who have since been forgotten; train it again "
        "without them"
    ),
    "adapter_prior": "the prior is computed with the adapter, but training used the prior of {base} without it",
}
"""The sentence of each code, with its fields in braces; a field `reason` follows it after a colon."""


@dataclass(frozen=True)
class Notice:
    """A notice for the caller.

    Attributes:
        code: a key of `SENTENCES`.
        fields: the values in the sentence. A `reason` quotes an error, which may contain paths of this machine.
    """

    code: str
    fields: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        str(self)  # fail here if the code has no sentence or a field is missing

    def __str__(self) -> str:
        words = {
            name: ", ".join(map(str, value)) if isinstance(value, list) else value
            for name, value in self.fields.items()
        }
        sentence = SENTENCES[self.code].format_map(words)
        return f"{sentence}: {self.fields['reason']}" if "reason" in self.fields else sentence

    def without_reason(self) -> "Notice":
        """A copy without the reason, for callers who may not see internal errors."""
        return Notice(self.code, {name: value for name, value in self.fields.items() if name != "reason"})
