"""Models of the Hub: the real client against a server with the Hub's API, through the command line."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer, files_of, hash_of, running_hub
from tiny_models import save_tiny_llama

from genrec.datasets.hub_id import HubId

REPO = "tiny/Random-Llama"
TOKEN = "hf_" + "s3cret" * 5
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    """A model in two shards, with files that are not needed beside them."""
    folder = save_tiny_llama(tmp_path_factory.mktemp("tiny") / "model", smollm2, max_shard_size="1MB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "LICENSE").write_text("MIT", encoding="utf-8")
    return folder


@pytest.fixture
def hub(tiny: Path) -> Iterator[HubServer]:
    """A hub with one model."""
    with running_hub() as server:
        server.add(REPO, tiny)
        yield server


@pytest.fixture
def genrec(hub: HubServer, tmp_path: Path) -> Command:
    """Run a command of genrec with an empty cache and the hub's address in the environment."""

    def run(*arguments: object, code: int = 0, preexec: Any = None, **environment: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "genrec", *map(str, arguments)],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
                **{"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "GENREC_CACHE": str(tmp_path / "genrec")},
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=preexec,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        if code:
            lines = done.stderr.strip().splitlines()  # others are progress, on a slow machine
            assert [line for line in lines if line.startswith("error: ")] == lines[-1:], done.stderr
        return done

    return run


def got(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    (model,) = json.loads(done.stdout)
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Qwen/Qwen3-4B-Instruct-2507", HubId("Qwen/Qwen3-4B-Instruct-2507")),
        ("Qwen/Qwen3@v1.0", HubId("Qwen/Qwen3", "v1.0")),
        ("a/b@refs/pr/3", HubId("a/b", "refs/pr/3")),
        *((text, None) for text in ("Qwen3", "/a/b", "./a/b", "../a", "a/b/c", "a/../b", "a/b@", "a b/c", "")),
    ],
)
def test_an_id_is_an_organisation_and_a_name(text: str, parsed: HubId | None) -> None:
    """A path that is taken for an id is looked for on the internet, and an id that is taken for a path nowhere."""
    assert HubId.parse(text) == parsed
    assert parsed is None or str(parsed) == text


def test_a_folder_is_a_folder_even_if_it_looks_like_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was trained here must not be replaced by somebody's model of the same name."""
    (tmp_path / "my" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert HubId.parse("my/model") is None


def test_a_model_is_downloaded_once_ranks_and_is_found_without_network(
    genrec: Command, hub: HubServer, tiny: Path
) -> None:
    """A Hub id is how people name models; a machine that has the model must not need the Hub to start."""
    model = got(genrec("model", "get", REPO, "--json"))
    folder, commit = Path(model["path"]), hub.repositories[REPO].refs["main"]
    assert (model["commit"], folder.name) == (commit, commit)
    assert files_of(folder) == {name: data for name, data in files_of(tiny).items() if not name.endswith(".bin")}
    hub.requests.clear()
    arguments = (
        "recommend",
        "--model",
        REPO,
        "--encoder",
        "none",
        "--prior",
        "0",
        "-k",
        "3",
        "--history",
        "22423",
        "--json",
    )
    lists = json.loads(genrec(*arguments).stdout)
    assert [item["source"].partition(":")[0] for item in lists[0]["items"]] == ["generative"] * 3
    assert hub.requests == []
    offline = json.loads(genrec(*arguments, HF_HUB_OFFLINE="1").stdout)
    assert offline[0]["items"] == lists[0]["items"]  # beside them are the seconds that the list took


def test_a_command_downloads_the_model_that_it_names_and_only_what_it_needs(genrec: Command, hub: HubServer) -> None:
    """An index needs a tokenizer; hundreds of gigabytes of weights for it would be waste."""
    genrec("prompt", "render", "next-item", "--user", "15049", "--tokens", "--model", REPO)
    files = [path for method, path in hub.requests if "/resolve/" in path or "/cdn/" in path]
    assert any(path.endswith("tokenizer.json") for path in files)
    assert not any(path.endswith((".safetensors", ".bin")) for path in files)
    assert json.loads(genrec("model", "get", REPO, "--json").stdout)[0]["name"] == REPO


def test_a_branch_moves_only_when_asked_and_a_revision_never(genrec: Command, hub: HubServer, tiny: Path) -> None:
    """Weights that change between two starts change answers; caches and manifests go by the commit."""
    first = got(genrec("model", "get", REPO, "--json"))["commit"]
    files = {**files_of(tiny), "generation_config.json": b"{}"}
    second = hub.repositories[REPO].commit(files, "main", "v2")
    assert second != first
    for revision, commit in (("", second), (f"@{first}", first), ("@v2", second), (f"@{second}", second)):
        assert got(genrec("model", "get", f"{REPO}{revision}", "--json"))["commit"] == commit


def test_a_private_model_needs_the_token_which_is_stored_nowhere(
    genrec: Command, hub: HubServer, tmp_path: Path
) -> None:
    """A token in a log, a manifest or a cache opens an account to everybody who can read it."""
    hub.repositories[REPO].token = TOKEN
    assert "set HF_TOKEN to a token that may read it" in genrec("model", "get", REPO, code=5).stderr
    done = genrec("model", "get", REPO, HF_TOKEN=TOKEN)
    assert TOKEN not in done.stdout + done.stderr
    hub.corrupted.add("tokenizer_config.json")
    refused = genrec("model", "get", f"{REPO}@nowhere", code=5, HF_TOKEN=TOKEN)
    assert TOKEN not in refused.stderr
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("with_token", [False, True])
def test_a_gated_model_says_where_to_accept_its_terms(genrec: Command, hub: HubServer, with_token: bool) -> None:
    """The most common models are gated, and the page is where it ends."""
    hub.repositories[REPO].gated, hub.repositories[REPO].token = True, TOKEN
    environment = {"HF_TOKEN": "hf_other"} if with_token else {}
    said = genrec("recommend", "--model", REPO, code=5, **environment).stderr
    assert f"the model '{REPO}' is gated; accept its terms at {hub.url}/{REPO}, and set HF_TOKEN" in said


def test_what_the_hub_does_not_have_is_named(genrec: Command, hub: HubServer) -> None:
    """A typing error in a name is no network error, and a revision that is missing is no model that is missing."""
    said = genrec("recommend", "--model", "tiny/Randon-Llama", code=5).stderr
    assert f"the model 'tiny/Randon-Llama' is not bundled, not a folder, and not on {hub.url}; check the name" in said
    said = genrec("model", "get", f"{REPO}@v9", code=5).stderr
    assert f"the model '{REPO}' on {hub.url} has no revision 'v9'; name a branch, a tag or a commit" in said


@pytest.mark.parametrize("files", [{"pytorch_model.bin": b"x"}, {"model.Q4_0.gguf": b"x"}, {}])
def test_a_model_without_safetensors_is_refused_before_a_download(
    genrec: Command, hub: HubServer, files: dict[str, bytes]
) -> None:
    """A pickle runs code when it is loaded; the other formats say what they are."""
    hub.repositories["tiny/Other"] = type(hub.repositories[REPO])()
    hub.repositories["tiny/Other"].commit({"config.json": b"{}", **files})
    said = genrec("model", "get", "tiny/Other", code=5).stderr
    assert "has no safetensors" in said
    assert all(name in said for name in files)
    assert not any("/resolve/" in path for _, path in hub.requests)


def test_without_network_a_missing_model_is_one_line(genrec: Command) -> None:
    """Offline mode and a network that is down have different remedies."""
    said = genrec("model", "get", REPO, code=5, HF_HUB_OFFLINE="1").stderr
    assert "HF_HUB_OFFLINE disables downloads" in said
    said = genrec("model", "get", REPO, code=5, HF_ENDPOINT="http://127.0.0.1:9").stderr
    assert "cannot download tiny/Random-Llama from http://127.0.0.1:9" in said
    assert "check the network, HF_ENDPOINT and the proxy" in said


def test_a_file_that_the_hub_did_not_state_is_removed(genrec: Command, hub: HubServer) -> None:
    """A mirror or a broken disk that changes a byte of the weights changes every answer."""
    name = sorted(name for name in hub.repositories[REPO].files[hub.repositories[REPO].refs["main"]] if "-of-" in name)[
        0
    ]
    hub.corrupted.add(name)
    said = genrec("model", "get", REPO, code=2).stderr
    assert f"{name} of {REPO} was removed, because its hash differs" in said
    hub.corrupted.clear()
    genrec("model", "get", REPO)


def test_an_altered_file_is_found_at_the_next_start(genrec: Command, hub: HubServer) -> None:
    """What was verified once may have been changed since."""
    folder = Path(got(genrec("model", "get", REPO, "--json"))["path"])
    weights_name = max(path.name for path in folder.glob("*.safetensors"))
    weights = (folder / weights_name).resolve()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    arguments = ("recommend", "--model", REPO, "--encoder", "none", "--prior", "0", "-k", "1")
    said = genrec(*arguments, code=2, HF_HUB_OFFLINE="1").stderr
    assert f"{folder / weights_name} was altered or cut short (its hash differs); download it" in said
    genrec(*arguments)
    assert hash_of(weights.read_bytes()) == weights.name


def test_an_interrupted_download_is_no_model_and_is_continued(genrec: Command, hub: HubServer, tmp_path: Path) -> None:
    """Half of a model must never answer; and hours of a download must not be repeated."""
    hub.broken_after = 2
    said = genrec("model", "get", REPO, code=5).stderr
    assert "finished files are kept" in said
    said = genrec("recommend", "--model", REPO, code=5, HF_HUB_OFFLINE="1").stderr
    assert "HF_HUB_OFFLINE disables downloads" in said
    hub.broken_after = None
    hub.requests.clear()
    genrec("model", "get", REPO)
    fetched = [path for method, path in hub.requests if method == "GET" and path.startswith("/cdn/")]
    shards = list((tmp_path / "hf").rglob("*.safetensors"))
    assert len(fetched) == len(shards) + 1 - 2  # the tokenizer is the other file that is sent this way


def test_a_full_disk_leaves_no_part_of_a_file(genrec: Command, tmp_path: Path) -> None:
    """A part of eight gigabytes on a full disk is what keeps it full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))

    said = genrec("model", "get", REPO, code=2, preexec=limit).stderr
    assert "the disk is full; free some space, or set HF_HOME" in said
    assert list((tmp_path / "hf").rglob("*.incomplete")) == []
    genrec("model", "get", REPO)


def test_an_error_of_the_disk_is_not_reported_as_one_of_the_network(genrec: Command, tmp_path: Path) -> None:
    """A person who is told to check the network and the proxy looks for hours at what works."""
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    said = genrec("model", "get", REPO, code=2, HF_HOME=str(tmp_path / "file")).stderr
    assert f"cannot save {REPO} in {tmp_path / 'file'}" in said
    assert "Not a directory" in said
    assert "set HF_HOME to a writable folder" in said
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    said = genrec("model", "get", REPO, code=2, HF_HOME=str(tmp_path / "loop")).stderr
    assert "set HF_HOME to a writable folder" in said
