"""Names of models by their folders, which for a model of the Hugging Face Hub is named by its commit."""

from pathlib import Path


def model_name(model: str | Path) -> str:
    """The last part of the name of a model, given by its folder or its Hub id."""
    return (snapshot_name(Path(model)) or Path(model).name).rpartition("/")[2]


def published_name(folder: Path) -> str:
    """The name by which others find the model in a folder: its Hub id, if it is from there, else the folder's name."""
    return snapshot_name(folder) or folder.name


def snapshot_name(folder: Path) -> str | None:
    """The Hub id, without a revision, of the model whose snapshot in the Hub's cache a folder is; else None."""
    parents = folder.absolute().parents
    if len(parents) < 2 or parents[0].name != "snapshots" or not parents[1].name.startswith("models--"):
        return None
    return parents[1].name.removeprefix("models--").replace("--", "/")


def snapshot_digests(folder: Path) -> list[str]:
    """The commit of a snapshot and the hashes of its weights, which name the files of the Hub's cache."""
    return [folder.name, *(f"{file.name} {file.resolve().name}" for file in sorted(folder.glob("*.safetensors")))]
