"""Artifacts: written atomically, never over other files, and every change is detected."""

import json
from pathlib import Path

import numpy as np
import pytest
from hostile import damaged_copies

from genrec.artifact import (
    MANIFEST,
    UserData,
    artifact_writer,
    mmap_arrays,
    sha256_of,
    user_data_kind,
    verify,
    write_arrays,
)
from genrec.errors import ArtifactError

NO_USERS = UserData("none", "nothing", 0)


def save(directory: Path, *, kind: str = "thing", version: int = 1, text: str = "one") -> None:
    with artifact_writer(directory, kind=kind, version=version, user_data=NO_USERS, metadata={"of": "tëst"}) as folder:
        (folder / "a.txt").write_text(text, encoding="utf-8")
        (folder / "deep").mkdir()
        (folder / "deep" / "b.bin").write_bytes(bytes(range(256)))
        (folder / "empty").touch()


def stop(directory: Path, error: type[BaseException]) -> None:
    with artifact_writer(directory, kind="thing", version=1, user_data=NO_USERS, metadata={}) as folder:
        (folder / "a.txt").write_text("half", encoding="utf-8")
        raise error


def test_verify_returns_the_saved_metadata(tmp_path: Path) -> None:
    """Loaders rely on it, such as on the fingerprints of the catalog and the tokenizer."""
    place = tmp_path / "new" / "thing"
    save(place)
    manifest = verify(place, kind="thing", version=1)
    assert manifest["of"] == "tëst"
    assert manifest["files"] == {name: sha256_of(place / name) for name in ("a.txt", "deep/b.bin", "empty")}
    assert [path.name for path in place.parent.iterdir()] == ["thing"]
    files = [path for path in place.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}, "another user may serve the artifact"


@pytest.mark.parametrize("name", ["a.txt", "deep/b.bin", "empty", MANIFEST])
def test_any_changed_byte_is_refused_and_the_file_named(tmp_path: Path, name: str) -> None:
    """Damaged or manipulated weights, tries and catalogs must not be used."""
    save(tmp_path / "thing")
    path = tmp_path / "thing" / name
    for content in damaged_copies(path):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            verify(tmp_path / "thing", kind="thing", version=1)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{Path(name).name} is missing"):
        verify(tmp_path / "thing", kind="thing", version=1)


@pytest.mark.parametrize("content", ["", "5", "[]", "null", "{}", '{"kind": "thing"}', '{"kind": "thing", "files": 3}'])
def test_an_invalid_manifest_is_refused(tmp_path: Path, content: str) -> None:
    """A path may contain anything; users need a message, not a traceback."""
    (tmp_path / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"manifest\.json .*save the thing again"):
        verify(tmp_path, kind="thing", version=1)


def test_arrays_are_restored_and_read_only(tmp_path: Path) -> None:
    """Memory maps are shared by all processes that opened the file."""
    written = {"a": np.arange(6, dtype=np.uint16).reshape(2, 3), "b": np.array([0.5], dtype=np.float32)}
    write_arrays(tmp_path / "x", written)
    found = mmap_arrays(tmp_path / "x")
    assert found.keys() == written.keys()
    for name, array in found.items():
        assert array.dtype == written[name].dtype
        np.testing.assert_array_equal(array, written[name])
        assert not array.flags.writeable


FACTS = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("[]", "its header is not a JSON object"),
        ("null", "its header is not a JSON object"),
        ("[" * 100_000, "cannot be read"),
        ("{", "cannot be read"),
        ('{"a": 3}', "cannot be read"),
        ('{"a": {}}', "cannot be read: 'dtype'"),
        (json.dumps({"a": {**FACTS, "dtype": "BF16"}}), "a has the type 'BF16', not one of U8, "),
        (json.dumps({"a": {**FACTS, "dtype": []}}), "cannot be read"),
        (json.dumps({"a": {**FACTS, "shape": [2]}}), "cannot be read"),
        (json.dumps({"a": {**FACTS, "shape": "x"}}), "cannot be read"),
        (json.dumps({"a": {**FACTS, "data_offsets": 3}}), "cannot be read"),
    ],
    ids=range(11),
)
def test_an_invalid_file_of_arrays_is_refused(tmp_path: Path, header: str, message: str) -> None:
    """The message must name the damaged file."""
    content = header.encode()
    (tmp_path / "x.safetensors").write_bytes(len(content).to_bytes(8, "little") + content + bytes(4))
    with pytest.raises(ArtifactError, match=r"x\.safetensors cannot be read.*; save it again") as refused:
        mmap_arrays(tmp_path / "x.safetensors")
    assert message in str(refused.value)


def test_another_kind_or_version_is_refused(tmp_path: Path) -> None:
    """Otherwise another artifact or an old format is misread silently."""
    save(tmp_path / "thing")
    with pytest.raises(ArtifactError, match="does not describe a saved index"):
        verify(tmp_path / "thing", kind="index", version=1)
    with pytest.raises(ArtifactError, match="has format version 1, but this genrec reads 2"):
        verify(tmp_path / "thing", kind="thing", version=2)
    with pytest.raises(ArtifactError, match="contains no saved thing"):
        verify(tmp_path / "nothing", kind="thing", version=1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, ArtifactError])
def test_an_interrupted_save_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """A partial index must not replace a complete one."""
    place = tmp_path / "thing"
    for _ in range(2):
        with pytest.raises(error):
            stop(place, error)
        assert [path.name for path in tmp_path.iterdir()] == (["thing"] if place.exists() else [])
        if place.exists():
            assert (place / "a.txt").read_text(encoding="utf-8") == "one"
            verify(place, kind="thing", version=1)
        save(place)


def test_a_save_replaces_the_old_artifact_completely(tmp_path: Path) -> None:
    """A remaining file of the old artifact would become part of the new one."""
    save(tmp_path / "thing", text="old")
    with artifact_writer(tmp_path / "thing", kind="thing", version=1, user_data=NO_USERS, metadata={}) as folder:
        (folder / "c.txt").write_text("new", encoding="utf-8")
    assert sorted(path.name for path in (tmp_path / "thing").iterdir()) == ["c.txt", MANIFEST]
    verify(tmp_path / "thing", kind="thing", version=1)
    path = tmp_path / "thing" / MANIFEST
    path.write_bytes(path.read_bytes()[:-20])
    save(tmp_path / "thing")
    verify(tmp_path / "thing", kind="thing", version=1)


def test_other_folders_are_never_replaced(tmp_path: Path) -> None:
    """A folder named by mistake may contain other files; many tools write a manifest.json."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("years of work", encoding="utf-8")
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    save(tmp_path / "prior", kind="prior")
    for manifest in (None, json.dumps({"name": "my app"}), "[1]", '\ufeff{"name": "my app"}', "// mine\n{}", ""):
        if manifest is not None:
            (site / MANIFEST).write_text(manifest, encoding="utf-8")
        with pytest.raises(ArtifactError, match=r"site exists and is not a saved thing; choose another folder"):
            save(site)
    with pytest.raises(ArtifactError, match="prior exists and is not a saved thing"):
        save(tmp_path / "prior")
    with pytest.raises(ArtifactError, match=r"cannot write thing to .*file"):
        save(file)
    with pytest.raises(ArtifactError, match=r"cannot write thing to .*file/deep"):
        save(file / "deep")
    assert (site / "index.html").read_text(encoding="utf-8") == "years of work"
    verify(tmp_path / "prior", kind="prior", version=1)
    (tmp_path / "void").mkdir()
    save(tmp_path / "void")
    verify(tmp_path / "void", kind="thing", version=1)


def test_saving_the_same_content_again_keeps_the_folder(tmp_path: Path) -> None:
    """Processes that fill the same cache must not remove a folder that another one is reading."""
    place = tmp_path / "thing"
    for _ in range(2):
        with artifact_writer(place, kind="thing", version=1, user_data=NO_USERS, metadata={}) as folder:
            (folder / "a").write_bytes(b"1")
        inode = place.stat().st_ino
    with artifact_writer(place, kind="thing", version=1, user_data=NO_USERS, metadata={}) as folder:
        (folder / "a").write_bytes(b"1")
    assert place.stat().st_ino == inode
    (place / "a").write_bytes(b"2")
    with artifact_writer(place, kind="thing", version=1, user_data=NO_USERS, metadata={}) as folder:
        (folder / "a").write_bytes(b"1")
    assert verify(place, kind="thing", version=1)


def test_a_manifest_says_what_the_artifact_holds_of_users(tmp_path: Path) -> None:
    """Otherwise nobody knows which folders to delete when a user must be forgotten."""
    user_data = UserData("aggregate", "counts of items", 3)
    with artifact_writer(tmp_path / "thing", kind="thing", version=1, user_data=user_data, metadata={}) as folder:
        (folder / "a").touch()
    assert verify(tmp_path / "thing", kind="thing", version=1)["user_data"] == {
        "kind": "aggregate",
        "contains": "counts of items",
        "users": 3,
    }
    assert user_data_kind(tmp_path / "thing") == "aggregate"
    for text in ("{}", '{"user_data": 1}', "no JSON"):
        (tmp_path / "thing" / MANIFEST).write_text(text, encoding="utf-8")
        assert user_data_kind(tmp_path / "thing") is None, "it may hold anything"
    assert user_data_kind(tmp_path / "nothing") is None
