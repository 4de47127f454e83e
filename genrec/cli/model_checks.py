"""Checks of a language model for `genrec doctor`: what works with it, at which cost, and three ranked items."""

import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genrec.errors import EngineError, GenrecError, InputError

if TYPE_CHECKING:
    from genrec.backends.base import Backend
    from genrec.backends.transformers import TransformersBackend
    from genrec.evaluation.model_check import ModelCheck, Reference, WholePaths
    from genrec.loading.language_model import ModelFiles
    from genrec.settings import Settings

CheckState = Literal["ok", "slow", "degraded", "broken"]

_INSTALL = "download the model again, or reinstall genrec[local]"
_LEAST_CONTEXT = 512
# Nats by which a token of a text may be less probable than the best one.
_GREEDY_TOLERANCE: dict[str | None, float] = {"float32": 1e-3, "float64": 1e-3}
_COARSE_TOLERANCE = 0.5  # other number types round that much
_TEMPLATE_REMEDIES = {
    "reasoning_skipped": "choose a model that answers without reasoning, or whose template reads enable_thinking",
    "chat_template_arguments_ignored": "omit them, or use names that the model's chat template reads",
}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: what was checked.
        state: `slow` and `degraded` still work; with `broken` the language model cannot run.
        found: what was found.
        remedy: what to do; "" if nothing is wrong.
    """

    name: str
    state: CheckState
    found: str
    remedy: str = ""


def check_language_model(settings: "Settings", cache: Path) -> Iterator[Check]:
    """Check the language model of the settings, on its engine; stops at the first check that is broken."""
    try:
        if settings.api is not None:
            yield _check_api_ranking(settings)
        else:
            yield from _check_model(settings, cache)
    except (GenrecError, ImportError, OSError) as error:
        problem, remedy = (error.problem, error.remedy) if isinstance(error, GenrecError) else (str(error), "")
        yield Check("generation", "broken", problem, remedy or _INSTALL)


def _check_model(settings: "Settings", cache: Path) -> Iterator[Check]:
    from genrec.evaluation.model_check import ModelCheck, SingleTokens, WholePaths
    from genrec.loading.language_model import find_model_files, open_engine

    files = find_model_files(settings, cache, weights=settings.engine != "server")
    tokenizer = files.tokenizer
    if not tokenizer.chat_template_fingerprint:
        yield Check(
            "chat template",
            "broken",
            f"model {settings.model} has no chat template, so it is a base model that follows no instructions",
            "choose an instruction-tuned model, or add its chat_template.jinja to the folder",
        )
        return
    backend, base = open_engine(settings, files, cache)
    local = _as_local(backend)
    check = ModelCheck(backend, tokenizer)
    try:
        check.prompts()
    except EngineError as error:
        yield Check(
            "context",
            "broken",
            f"{backend.context_length} tokens are fewer than a prompt needs: {error.problem}",
            f"choose a model with a context of at least {_LEAST_CONTEXT} tokens",
        )
        return
    if local is not None:
        yield _check_arithmetic(local)
    yield from _check_chat_template(settings, files)
    paths = None if local is None else WholePaths(local.model)
    yield _check_scores(check, paths or SingleTokens(backend), local)
    yield _check_tree(check, backend, local)
    if local is not None:
        yield _check_adapters(local)
    if settings.adapter is not None and base is not None:  # every engine opens the base beside an adapter
        yield _check_adapter(settings, check, backend, base)
    yield _check_text(check, paths, local)
    yield Check("generation", "ok", f"ranking after Tea Cup: {', '.join(check.rank(3))}")


def _as_local(backend: "Backend") -> "TransformersBackend | None":
    from genrec.backends.transformers import TransformersBackend

    return backend if isinstance(backend, TransformersBackend) else None


def _check_arithmetic(backend: "TransformersBackend") -> Check:
    dtype = str(backend.dtype).removeprefix("torch.")
    if dtype == "bfloat16":
        return Check("arithmetic", "ok", f"bfloat16 on {backend.device}")
    remedy = "optional: a processor with bfloat16 (AVX-512 BF16) or a GPU is about 2.5 times faster"
    return Check("arithmetic", "slow", f"{dtype} on {backend.device}, which does not support bfloat16", remedy)


def _check_chat_template(settings: "Settings", files: "ModelFiles") -> Iterator[Check]:
    from genrec.evaluation.chat_template_check import VERDICTS, compare_rendering

    verdict = compare_rendering(files.folder, files.tokenizer, settings.chat_template, today=datetime.date.today())
    if verdict is None:
        yield Check("chat template", "ok", "not compared, because Transformers cannot load the tokenizer")
    elif verdict == "different":
        remedy = "report this model; its prompts may rank worse than they could"
        yield Check("chat template", "degraded", "other tokens than Transformers' own rendering", remedy)
    else:
        change = "" if verdict == "equal" else f": {VERDICTS[verdict]}"
        yield Check("chat template", "ok", f"rendered as in Transformers{change}")
    for notice in files.tokenizer.notices:
        yield Check("chat template", "degraded", str(notice), _TEMPLATE_REMEDIES[notice.code])


def _check_scores(check: "ModelCheck", reference: "Reference", local: "TransformersBackend | None") -> Check:
    import torch

    from genrec.backends.precision import log_probs_agree

    comparison = check.compare_scores(reference)
    passes = "single tokens" if local is None else "forward passes over whole paths"
    found = f"log-probabilities differ from {passes} by at most {comparison.difference:.1e} nats"
    # Engines in another process choose their own number type, which is bfloat16 in most cases.
    dtype = torch.bfloat16 if local is None else local.dtype
    if log_probs_agree(comparison.log_probs, comparison.expected, dtype):
        return Check("scores", "ok", found)
    return Check("scores", "degraded", found, "report this model; lists may not be the best ones")


def _check_tree(check: "ModelCheck", backend: "Backend", local: "TransformersBackend | None") -> Check:
    list_seconds = _measure_seconds(lambda: check.rank(3))
    prompt = check.prompts()[:1]
    prompt_seconds = _measure_seconds(lambda: backend.open(prompt))
    cost = f"a list of three takes {list_seconds:.2g} s, and its prompt alone {prompt_seconds:.2g} s"
    if local is None:
        return Check("tree", "ok", f"paths in the engine's prefix cache; {cost}")
    if local.tree == "masked":
        return Check("tree", "ok", f"masked: all titles of a prompt in one sequence; {cost}")
    how = "behind a copy of the prompt's state" if local.plain.copies_state else "with the whole prompt"
    return Check("tree", "slow", f"paths: each title in a row of its own, {how}; {cost}")


def _measure_seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _check_adapters(backend: "TransformersBackend") -> Check:
    from genrec.backends.trainable_layers import trainable_layers

    if layers := trainable_layers(backend.model):
        return Check("adapters", "ok", f"LoRA can train {len(layers)} linear layers")
    return Check("adapters", "degraded", "LoRA can train no layer", "use the model without an adapter")


def _check_adapter(settings: "Settings", check: "ModelCheck", backend: "Backend", base: "Backend") -> Check:
    """Check that the adapter, which is loaded and fits its base, changes scores and ranks what it was trained on."""
    from genrec.datasets.registry import find_adapter
    from genrec.loading.language_model import SEMANTIC_IDS_DIRECTORY

    name, change = f"adapter {settings.adapter}", check.compare_backends(base)
    if change == 0:
        return Check(name, "degraded", "changes no log-probability of the model", "train the adapter again, or omit it")
    provenance = backend.provenance
    trained = "" if provenance is None else f", trained on {provenance.base} at {provenance.last or 'an unknown time'}"
    found = f"fits {settings.model}{trained}; changes log-probabilities by up to {change:.2g} nats"
    if (find_adapter(settings.adapter or "") / SEMANTIC_IDS_DIRECTORY).is_dir():
        return Check(name, "degraded", f"{found}; it ranks semantic ids, and the lists here are of titles")
    return Check(name, "ok", found)


def _check_text(check: "ModelCheck", paths: "WholePaths | None", local: "TransformersBackend | None") -> Check:
    dtype = None if local is None else str(local.dtype).removeprefix("torch.")
    try:
        text = check.generate(paths, tolerance=_GREEDY_TOLERANCE.get(dtype, _COARSE_TOLERANCE))
    except GenrecError as error:
        return Check("texts", "degraded", error.problem, error.remedy or "use the model for ranking only")
    return Check("texts", "ok", f"writes {' '.join(text.split())!r}")


def _check_api_ranking(settings: "Settings") -> Check:
    """Let a model behind an API put three items in order."""
    import numpy as np

    from genrec.backends.openai_api import OpenAiBackend
    from genrec.evaluation.model_check import example_catalog, rank_titles
    from genrec.pipeline import ListwiseStage
    from genrec.prompting.template import read_template
    from genrec.rankers.popularity import PopularityRanker

    if settings.api is None:
        raise InputError("api is None; set the server of the model")
    catalog, template = example_catalog(), read_template(settings.list_template)
    retriever = PopularityRanker(np.zeros(len(catalog), dtype=np.int64))
    backend = OpenAiBackend(str(settings.model), settings.api)
    try:
        stage = ListwiseStage.from_backend(catalog, backend, retriever, template, settings.listwise)
        backend.check_model()
        ranked = rank_titles(stage.ranker, backend.name, 3)
    finally:
        backend.close()
    usage = backend.usage
    return Check(
        "generation",
        "ok",
        f"ranking after Tea Cup, listwise: {', '.join(ranked)}; {usage.prompt_tokens + usage.generated_tokens} tokens",
    )
