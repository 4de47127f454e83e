"""What a conversation needs of a ranker with a language model: the model, to write texts as well."""

from typing import Protocol, runtime_checkable

from genrec.backends.base import TextBackend
from genrec.prompting.tokenizer import Tokenizer


@runtime_checkable
class LanguageModelRanker(Protocol):
    """A ranker with a language model, which can write texts as well."""

    @property
    def generation_backend(self) -> TextBackend:
        """The model that generates text."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        ...
