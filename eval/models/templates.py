"""Real chat templates: whether a prompt and an answer have the tokens of the whole conversation in Transformers."""

import datetime
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.models.downloads import TEMPLATE_PACKAGES, fetch
from genrec.errors import ArtifactError
from genrec.evaluation import CONVERSATIONS, ChatTemplateCheck, Verdict
from genrec.prompting import ChatTemplateSettings, HuggingFaceTokenizer

# Whatever the templates write as markup; the tokenizer gets a control token for each.
_MARKUP = re.compile(
    r"<[|\uff5c][^<>|\uff5c\s'\"{}]+[|\uff5c]?>|<[^<>|\uff5c\s'\"{}]+[|\uff5c]>|\[/?[A-Z_]+\]|\[/?[a-z]+MASK\]|"
    r"</?(?:s|sop|think|seed:\w+|[a-z]+(?:_[a-z0-9]+)+)>|\]~!?b[\]\[]|\[e~\["
)
# Words as Llama 3, Qwen and most newer models split them: a line break behind markup stays one token before text.
_WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS = {"type": "Split", "pattern": {"Regex": _WORD_PATTERN}, "behavior": "Isolated", "invert": False}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_SPECIAL = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@dataclass(frozen=True)
class TemplateRow:
    """How a template works with one conversation.

    Attributes:
        template: its source and name, such as "trl/qwen3".
        conversation: a key of `CONVERSATIONS`.
        verdict: a key of `VERDICTS`.
        notes: what was skipped, or the reason of a refusal.
    """

    template: str
    conversation: str
    verdict: Verdict
    notes: str = ""


class TemplateComparison:
    """Compares prompts with Transformers, over one vocabulary that has the markup of all templates.

    Args:
        base: a folder with a byte-level tokenizer.
        cache: where the templates are kept, see `fetch`.
    """

    def __init__(self, base: Path, cache: Path) -> None:
        self.sources = {
            f"{package}/{file.stem}": file.read_text(encoding="utf-8")
            for package in TEMPLATE_PACKAGES
            for file in sorted(fetch(package, cache).glob("*.jinja"))
        }
        document = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
        known = {token["content"] for token in document["added_tokens"]}
        markup = find_markup(self.sources.values()) | {"<s>", "</s>"}
        size = len(document["model"]["vocab"])
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [_WORDS, _BYTES]}
        document["added_tokens"] += [
            {"id": size + number, "content": content, **_SPECIAL}
            for number, content in enumerate(sorted(markup - known))
        ]
        self._tokenizer_json = json.dumps(document)
        self._special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|im_end|>", "unk_token": "<|im_end|>"}
        # Transformers shows today's date.
        self._settings = ChatTemplateSettings(date=datetime.date.today())

    @cached_property
    def _reference(self) -> Any:
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=Tokenizer.from_str(self._tokenizer_json), padding_side="right", **self._special
        )

    def compare(self, template: str) -> Iterator[TemplateRow]:
        """One row for each conversation."""
        source = self.sources[template]
        check = ChatTemplateCheck(self._reference, source)
        try:
            tokenizer = HuggingFaceTokenizer(
                self._tokenizer_json,
                chat_template=source,
                bos_token=self._special["bos_token"],
                eos_token=self._special["eos_token"],
                special_tokens=self._special,
                settings=self._settings,
            )
        except ArtifactError as error:
            for name, turns in CONVERSATIONS.items():
                yield TemplateRow(template, name, check.judge_refusal(turns, error), str(error))
            return
        skipped = "".join(str(notice.fields["generation_prompt"]) for notice in tokenizer.notices)
        for name, turns in CONVERSATIONS.items():
            verdict, notes = check.compare(tokenizer, turns)
            yield TemplateRow(template, name, verdict, notes or (f"skips {skipped!r}" if skipped else ""))


def find_markup(sources: Iterable[str]) -> set[str]:
    """The markup that chat templates write, for which a tokenizer has control tokens."""
    return {found for source in sources for found in _MARKUP.findall(source)}
