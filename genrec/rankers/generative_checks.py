"""Checks that the parts of an LLM ranker fit each other, before it ranks."""

from collections.abc import Sequence

from genrec.backends.base import Backend
from genrec.errors import InputError, TokenizerMismatchError
from genrec.index.catalog_index import CatalogIndex
from genrec.prompting.template import Template
from genrec.prompting.tokenizer import Tokenizer
from genrec.rankers.generative_settings import GenerativeSettings
from genrec.types import Message, Role, Span

_PROBE_ROLES: tuple[Role, ...] = ("system", "user")


def check_templates(templates: Sequence[Template], settings: GenerativeSettings) -> None:
    """Check that templates fit the settings of a ranker.

    Raises:
        InputError: a template does not output an item, or lists candidates, which the strategy does not have.
    """
    for template in templates:
        if template.output != "item":
            raise InputError(
                f"template {template.name!r} has output = {template.output}; use a template with output = item"
            )
        if settings.strategy == "beam" and "candidates" in template.inputs:
            raise InputError(
                f"template {template.name!r} lists candidates, which beam search does not have; use the strategy "
                "'candidates', or a template without candidates"
            )


def check_tokenizer(index: CatalogIndex, backend: Backend, tokenizer: Tokenizer) -> None:
    """Check that the index, the model and its adapter belong to a tokenizer.

    Raises:
        TokenizerMismatchError: one of them belongs to another.
    """
    if index.tokenizer_fingerprint != tokenizer.fingerprint:
        raise TokenizerMismatchError(
            f"the index was built for tokenizer {index.tokenizer_fingerprint[:12]}, not for "
            f"{tokenizer.fingerprint[:12]}; build it again with this model's tokenizer"
        )
    check_model_tokenizer(backend, tokenizer)


def check_model_tokenizer(backend: Backend, tokenizer: Tokenizer) -> None:
    """Check that a model and its adapter belong to a tokenizer.

    Raises:
        TokenizerMismatchError: one of them belongs to another.
    """
    check_vocabulary(backend.name, backend.vocab_size, tokenizer)
    trained = backend.provenance
    if trained is not None and trained.tokenizer != tokenizer.fingerprint:
        raise TokenizerMismatchError(
            f"the adapter of {backend.name} was trained with tokenizer {trained.tokenizer[:12]}, not with "
            f"{tokenizer.fingerprint[:12]}; load the tokenizer that it was trained with"
        )


def check_vocabulary(model: str, vocab_size: int, tokenizer: Tokenizer) -> None:
    """Check that a model, named `model`, has all tokens that a tokenizer uses.

    Raises:
        TokenizerMismatchError: it lacks some.
    """
    if tokenizer.vocab_size > vocab_size and not _is_excess_unused(vocab_size, tokenizer):
        raise TokenizerMismatchError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {model} only {vocab_size}; "
            "load the model's own tokenizer"
        )


def _is_excess_unused(vocab_size: int, tokenizer: Tokenizer) -> bool:
    """Whether the tokens that the model lacks are control tokens that no prompt needs, as in some Gemma models."""
    excess = range(vocab_size, tokenizer.vocab_size)
    probe = tokenizer.encode_prompt([Message(role, (Span("a", trusted=False),)) for role in _PROBE_ROLES])
    used = {*probe.tolist(), *tokenizer.answer_end.tolist()}
    return set(excess) <= set(tokenizer.control_token_ids) - used
