"""Where a model is computed, and in which number type; names that can be checked without torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from genrec.errors import InputError, ModelMissingError, format_value

DTYPES = ("bfloat16", "float16", "float32")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_DEVICE = re.compile(r"[a-z]+(:\d+)?")


@dataclass(frozen=True)
class Placement:
    """Where a model is computed, and in which number type.

    Attributes:
        dtype: `bfloat16`, `float16` or `float32`; by default bfloat16 if the device supports it, else float32.
        device: a torch device such as `cpu`, `cuda` or `cuda:1`; by default the first GPU, else the CPU.
        device_map: how Accelerate distributes a model over several devices: a strategy such as `auto`, or a device for
            each module's name; by default the model is on one device.

    Raises:
        InputError: a value is none of these, or both `device` and `device_map` are given.
    """

    dtype: str | None = None
    device: str | None = None
    device_map: str | Mapping[str, int | str] | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(f"dtype is {format_value(self.dtype)}; choose one of {', '.join(DTYPES)}")
        if self.device is not None and not (isinstance(self.device, str) and _DEVICE.fullmatch(self.device)):
            raise InputError(f"device is {format_value(self.device)}; name a torch device such as cpu, cuda or cuda:1")
        if self.device is not None and self.device_map is not None:
            raise InputError(
                f"device is {self.device!r} and device_map is {format_value(self.device_map)}; omit one of them"
            )
        if not self._is_device_map():
            raise InputError(
                f"device_map is {format_value(self.device_map)}; choose one of {', '.join(DEVICE_MAPS)}, or map names "
                "of modules to devices"
            )

    def _is_device_map(self) -> bool:
        if isinstance(self.device_map, Mapping):
            return all(isinstance(name, str) and isinstance(to, int | str) for name, to in self.device_map.items())
        return self.device_map is None or self.device_map in DEVICE_MAPS

    @property
    def given(self) -> dict[str, object]:
        """The values that are not the default, by name."""
        values = {"dtype": self.dtype, "device": self.device, "device_map": self.device_map}
        return {name: value for name, value in values.items() if value is not None}


def check_device_map(device_map: str | Mapping[str, int | str] | None, adapter: object) -> None:
    """Check that a model can be distributed over devices.

    Raises:
        InputError: an adapter would have to be merged into weights that are on several devices.
        ModelMissingError: Accelerate is not installed.
    """
    if device_map is None:
        return
    if adapter is not None:
        raise InputError(
            f"device_map is {format_value(device_map)}, and the adapter {str(adapter)!r} is merged into weights on one "
            "device; omit device_map, or merge the adapter with finetune.merge and name the merged model"
        )
    if find_spec("accelerate") is None:
        raise ModelMissingError("device_map needs Accelerate", remedy="run: pip install 'genrec[local]'")
