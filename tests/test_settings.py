"""Settings are checked before anything is opened."""

from typing import Any

import pytest

from genrec import Settings
from genrec.backends import ApiSettings
from genrec.errors import InputError
from genrec.prompting import ChatTemplateSettings

LANGUAGE_MODEL_SETTINGS: dict[str, dict[str, Any]] = {
    "adapter": {"adapter": "online-retail"},
    "api": {"api": ApiSettings("http://127.0.0.1:1/v1")},
    "dtype": {"dtype": "float32"},
    "device_map": {"device_map": "auto"},
    "engine": {"engine": "vllm"},
    "chat_template": {"chat_template": ChatTemplateSettings(arguments={"enable_thinking": True})},
}


@pytest.mark.parametrize("name", LANGUAGE_MODEL_SETTINGS)
def test_a_setting_of_a_language_model_needs_one(name: str) -> None:
    """It would be ignored, and lists without the adapter or the engine would be taken for theirs."""
    with pytest.raises(InputError, match=f"^{name} is .*, but model is none; name a model, or omit {name}$"):
        Settings(model=None, **LANGUAGE_MODEL_SETTINGS[name])
    Settings(model=None, device="cpu")  # of the encoder, too


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_the_name_of_a_model_at_a_server_needs_a_server(engine: Any) -> None:
    """Another model than the named one would rank."""
    with pytest.raises(InputError, match=r"^server_model is 'tuned', but engine is .*; set engine to server, or omit"):
        Settings(engine=engine, server_model="tuned")
