"""Memory of a batch of searches, estimated before the batch starts."""

from dataclasses import dataclass

from genrec.errors import InputError
from genrec.rankers.generative_settings import GenerativeSettings, Strategy

NODES_PER_PASS = 512  # nodes per prompt that one forward pass of exhaustive scoring grows


@dataclass(frozen=True)
class BatchDimensions:
    """The numbers from which the memory of a batch is estimated.

    The estimate counts tokens as a token tree holds them: every prompt, and the nodes grown for it, is as long as the
    longest of the batch. A beam holds its width, or k, of the longest identifiers; exhaustive scoring holds one pass.

    Attributes:
        strategy: how the batch is searched.
        k: list length.
        n_prompts: prompts of the batch.
        prompt_tokens: length of the longest prompt.
        identifier_tokens: length of the longest identifier of an item.
        token_bytes: the backend's memory per token.
    """

    strategy: Strategy
    k: int
    n_prompts: int
    prompt_tokens: int
    identifier_tokens: int
    token_bytes: int

    def node_budget(self, settings: GenerativeSettings) -> int:
        """The greatest number of nodes that an exact search may grow for each prompt.

        Raises:
            InputError: the batch exceeds `settings.memory`; the message holds the estimate.
        """
        budget, size = settings.memory, self.token_bytes
        if budget is None:
            return settings.max_nodes
        beam = self.strategy == "beam"
        if beam:
            width = max(settings.width, self.k)
            grown, formula = width * self.identifier_tokens, f"{width} x {self.identifier_tokens}"
        else:
            grown = max(NODES_PER_PASS, self.identifier_tokens)
            formula = str(grown)
        tokens = self.n_prompts * (self.prompt_tokens + grown)
        if tokens * size > budget:
            raise InputError(
                f"{self.n_prompts} prompts of up to {self.prompt_tokens:,} tokens, with {formula} more for each, take "
                f"{tokens:,} x {size:,} bytes = {tokens * size / 1e6:,.1f} MB, but memory is {budget / 1e6:,.1f} MB; "
                f"lower batch_size{', width' if beam else ''} or max_history, or raise memory"
            )
        return min(settings.max_nodes, int(budget / size - tokens) // self.n_prompts)
