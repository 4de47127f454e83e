"""A model folder with Python code, which tells whether somebody ran it."""

import json
from pathlib import Path

from safetensors.numpy import save_file

from genrec.prompting.message_tokenizer import MessageTokenizer

_CODE = """
from pathlib import Path
from transformers import PretrainedConfig, PreTrainedModel

Path({marker!r}).touch()

class Config(PretrainedConfig):
    model_type = "untrusted"

class Model(PreTrainedModel):
    config_class = Config
"""


class UntrustedModel:
    """A model of an architecture that Transformers lacks; its code touches a file when it runs.

    Attributes:
        folder: the folder of the model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._marker = folder, folder.with_name(f"{folder.name} has run")
        folder.mkdir()
        classes = {
            "AutoConfig": "code.Config",
            **dict.fromkeys(("AutoModel", "AutoModelForCausalLM"), "code.Model"),
        }
        config = {"model_type": "untrusted", "auto_map": classes}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "tokenizer.json").write_text(MessageTokenizer().tokenizer_json, encoding="utf-8")
        (folder / "tokenizer_config.json").write_text('{"eos_token": "<|genrec end|>"}', encoding="utf-8")
        save_file({}, folder / "model.safetensors")  # it is never read: the code, which fails, runs before
        (folder / "code.py").write_text(_CODE.format(marker=str(self._marker)), encoding="utf-8")

    @property
    def has_run(self) -> bool:
        """Whether its code was run."""
        return self._marker.exists()
