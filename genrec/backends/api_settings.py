"""Settings of a model behind an API."""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from genrec.backends.api_connection import API_KEY_VARIABLE, check_server_url
from genrec.backends.base import TokenUsage
from genrec.errors import check_count, check_number

_OPENAI_HOST, _OPENAI_KEY_VARIABLE = "api.openai.com", "OPENAI_API_KEY"


@dataclass(frozen=True)
class ApiSettings:
    """The server of a model behind an API, which speaks OpenAI's protocol.

    The key comes from the environment only: `GENREC_MODEL_API_KEY`, or for api.openai.com also `OPENAI_API_KEY`.

    Attributes:
        url: base URL, such as `https://api.openai.com/v1`; without a path, `/v1` is added.
        timeout: time limit in seconds for one attempt, and for one wait at a rate limit.
        max_concurrency: maximum number of concurrent requests.
        context_length: the model's context in tokens. The bytes of a prompt and the tokens of its answer are held to
            it, because a token is at least one byte.
        reasoning_tokens: added to the length limit of each answer, for models that reason before they answer.
        input_price, output_price: prices per million tokens, in any currency; the cost of a list is computed from them.

    Raises:
        InputError: a value is out of range, or the URL is not valid.
    """

    url: str
    timeout: float = 60.0
    max_concurrency: int = 8
    context_length: int = 32_768
    reasoning_tokens: int = 0
    input_price: float = 0.0
    output_price: float = 0.0

    def __post_init__(self) -> None:
        check_server_url(self.url)
        check_number("timeout", self.timeout, "give seconds above 0", 0, above=True)
        check_count("max_concurrency", self.max_concurrency)
        check_count("context_length", self.context_length)
        check_count("reasoning_tokens", self.reasoning_tokens, 0)
        for name in ("input_price", "output_price"):
            check_number(name, getattr(self, name), "give the price per million tokens, at least 0", 0)

    @property
    def host(self) -> str:
        """The host of the server."""
        return urlsplit(self.url).hostname or ""

    def cost(self, usage: TokenUsage) -> float:
        """The cost of tokens."""
        spent = usage.prompt_tokens * self.input_price + usage.generated_tokens * self.output_price
        return spent / 1e6


def environment_key(settings: ApiSettings) -> str:
    """The key from the environment; that of OpenAI is sent to OpenAI only."""
    key = os.environ.get(API_KEY_VARIABLE, "")
    if not key and settings.url.startswith("https:") and settings.host == _OPENAI_HOST:
        key = os.environ.get(_OPENAI_KEY_VARIABLE, "")
    return key.strip()
