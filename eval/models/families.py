"""The table of model families: what works with tiny random models of real architectures, measured in float32."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from eval.models.architectures import ARCHITECTURES, build_model
from eval.models.tokenizers import describe_tokens, write_tokenizer
from genrec.backends import TransformersBackend, causal_model_class, load_pretrained, progress_bars_disabled
from genrec.errors import GenrecError
from genrec.evaluation import ModelCheck, WholePaths, compare_rendering
from genrec.prompting import ChatTemplateSettings, HuggingFaceTokenizer
from genrec.types import FloatArray

BOUND = 1e-4  # nats, in float32
LORA_BOUND = 5e-4  # an adapter is merged into the weights, which rounds them
NO_TEMPLATE = "no chat template"
_LEAST_SENSITIVITY = 0.1  # nats; below, the prompt hardly matters and every comparison would agree


@dataclass(frozen=True)
class FamilyRow:
    """What works with one architecture.

    Attributes:
        name: a key of `ARCHITECTURES`.
        renders: a verdict of `ChatTemplateCheck`, or the reason of a refusal.
        difference: the largest difference of a token's log-probability from whole forward passes, in nats; None if the
            model cannot rank.
        tree: how token trees are computed.
        lora: the same difference with an adapter that was trained for a step and loaded again; None if that failed.
        writes: whether a greedy text consists of the most probable tokens.
        notes: the tokenizer, reasons of refusals, and other remarks.
    """

    name: str
    renders: str
    difference: float | None
    tree: str
    lora: float | None
    writes: bool
    notes: str

    @property
    def is_right(self) -> bool:
        """Whether the model scores within `BOUND`, trains and writes; or is refused, if it cannot rank."""
        architecture = ARCHITECTURES[self.name]
        if self.difference is None or self.lora is None:
            return self.difference is None and not architecture.ranks
        within = self.difference <= BOUND and (self.lora <= LORA_BOUND) == architecture.exact_lora
        return architecture.ranks and within and self.writes and self.renders != "different"


@contextmanager
def tiny_model(name: str, cache: Path) -> Iterator[Path]:
    """The folder of a tiny model with its tokenizer, for as long as it is needed.

    Args:
        name: a key of `ARCHITECTURES`.
        cache: where downloaded tokenizers are kept.
    """
    architecture = ARCHITECTURES[name]
    with TemporaryDirectory(prefix="genrec-family-") as path, progress_bars_disabled():
        folder = Path(path)
        vocab_size = write_tokenizer(architecture.tokens, folder, cache)
        build_model(architecture, vocab_size).save_pretrained(folder)
        yield folder


def measure_family(name: str, cache: Path) -> FamilyRow:
    """Measure the row of an architecture."""
    with tiny_model(name, cache) as folder:
        return measure_folder(name, folder)


def measure_folder(name: str, folder: Path) -> FamilyRow:
    """Measure the row of the model in a folder."""
    notes = [note for note in (describe_tokens(ARCHITECTURES[name].tokens), ARCHITECTURES[name].notes) if note]
    try:
        tokenizer = HuggingFaceTokenizer.from_directory(folder)
        verdict = compare_rendering(folder, tokenizer, ChatTemplateSettings(), today=datetime.date.today())
        renders = verdict or NO_TEMPLATE
        backend = TransformersBackend(folder, device="cpu", dtype=torch.float32)
        check = ModelCheck(backend, tokenizer)
        reference = load_pretrained(causal_model_class(folder), folder, dtype=torch.float32).eval()
        paths = WholePaths(reference)
        comparison = check.compare_scores(paths)
        if comparison.sensitivity < _LEAST_SENSITIVITY:
            raise ArithmeticError(f"{name}: the prompt changes no log-probability by {_LEAST_SENSITIVITY} nats")
        check.rank(4)
    except GenrecError as error:
        return FamilyRow(name, "refused", None, "", None, False, "; ".join([*notes, str(error)]))
    lora, writes = None, False
    try:
        check.generate(paths)
        writes = True
        lora = _train(folder, tokenizer, check, comparison.expected)
    except (GenrecError, RuntimeError) as error:
        notes.append(str(error))
    return FamilyRow(name, renders, comparison.difference, backend.tree, lora, writes, "; ".join(notes))


def _train(folder: Path, tokenizer: HuggingFaceTokenizer, check: ModelCheck, untrained: FloatArray) -> float:
    from eval.models.lora import train_step  # vLLM's environment has no PEFT

    with TemporaryDirectory(prefix="genrec-adapter-") as out:
        return train_step(folder, tokenizer, check, untrained, Path(out) / "adapter")
