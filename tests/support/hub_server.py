"""A server that speaks the API of the Hugging Face Hub, for the real client: models, trees, files, LFS redirects."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from http_server import http_server

_LFS_NAME = re.compile(r".*\.(safetensors|bin|gguf|model)$|tokenizer\.json$")
_MODEL = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>.+))?")
_TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass
class Repository:
    """A model on the server.

    Attributes:
        files: their content by name, for each commit.
        refs: branches and tags, and their commits.
        token: the token that may read the model; None for everybody.
        gated: whether the terms of the model have to be accepted.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """Add a commit with these files, and let refs name it, `main` by default."""
        digest = hashlib.sha1(repr(sorted((name, hash_of(data)) for name, data in files.items())).encode()).hexdigest()
        self.files[digest] = files
        self.refs |= dict.fromkeys(refs or ("main",), digest)
        return digest


@dataclass
class HubServer:
    """A running server.

    Attributes:
        url: its address, for `HF_ENDPOINT`.
        repositories: the models by id.
        corrupted: names of files that are sent with one byte changed.
        broken_after: the number of files after which the connection of every other file breaks half way.
        requests: the method and the path of each request.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    corrupted: set[str] = field(default_factory=set)
    broken_after: int | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0

    def add(self, repo: str, folder: Path, **options: object) -> Repository:
        """Add a model with the files of a folder."""
        repository = self.repositories[repo] = Repository(**options)  # type: ignore[arg-type]
        repository.commit(files_of(folder))
        return repository


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of the files of a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hash_of(data: bytes) -> str:
    """The SHA-256 of a file's content."""
    return hashlib.sha256(data).hexdigest()


def blob_of(data: bytes) -> str:
    """The id of a file in git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """Serve until the block ends."""
    hub = HubServer()

    class Handler(_HubHandler):
        server_state = hub

    with http_server(Handler) as hub.url:
        yield hub


class _HubHandler(BaseHTTPRequestHandler):
    server_state: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None: ...

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server_state.requests.append((self.command, path))
        if path.startswith("/cdn/"):
            self._send_lfs(path.removeprefix("/cdn/"))
        elif found := _TREE.fullmatch(path):
            if (listed := self._files(found["repo"], found["revision"], gate=True)) is not None:
                self._send_json([_tree_entry(name, data) for name, data in sorted(listed[1].items())])
        elif found := _MODEL.fullmatch(path):
            if (listed := self._files(found["repo"], found["revision"] or "main", gate=False)) is not None:
                names = [{"rfilename": name} for name in sorted(listed[1])]
                self._send_json({"id": found["repo"], "modelId": found["repo"], "sha": listed[0], "siblings": names})
        elif found := _FILE.fullmatch(path):
            if (listed := self._files(found["repo"], found["revision"], gate=True)) is not None:
                self._send_file(found["name"], *listed)
        else:
            self._refuse(404, "", "Not found")

    def _files(self, repo: str, revision: str, *, gate: bool) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision and its files; None if the request was refused."""
        repository = self.server_state.repositories.get(repo)
        given = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if repository is None or (repository.token is not None and not repository.gated and given != repository.token):
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif gate and repository.gated and given != repository.token:
            self._refuse(403 if given else 401, "GatedRepo", f"Access to model {repo} is restricted")
        elif (commit := repository.refs.get(revision, revision)) not in repository.files:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return commit, repository.files[commit]
        return None

    def _send_file(self, name: str, commit: str, files: dict[str, bytes]) -> None:
        if name not in files:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        data = files[name]
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if _LFS_NAME.fullmatch(name):
            digest = hash_of(data)
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "ETag": f'"{digest}"'}
            cdn = self.server_state.url.replace("127.0.0.1", "localhost")  # another host, as on the Hub
            location = f"{cdn}/cdn/{commit}/{name}"
            self._send(302, b"", {**headers, "Location": location})
        else:
            self._send(200, self._changed(name, data), {**headers, "ETag": f'"{blob_of(data)}"'})

    def _send_lfs(self, path: str) -> None:
        commit, _, name = path.partition("/")
        state = self.server_state
        data = next(one.files[commit][name] for one in state.repositories.values() if commit in one.files)
        state.sent += self.command == "GET"
        if state.broken_after is not None and state.sent > state.broken_after:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        content = self._changed(name, data)[start:]
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if self.headers["Range"] else {}
        self._send(206 if headers else 200, content, {**headers, "ETag": f'"{hash_of(data)}"'})

    def _changed(self, name: str, data: bytes) -> bytes:
        return bytes([data[0] ^ 1]) + data[1:] if name in self.server_state.corrupted else data

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _tree_entry(name: str, data: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": blob_of(data)}
    if _LFS_NAME.fullmatch(name):
        entry["lfs"] = {"oid": hash_of(data), "size": len(data), "pointerSize": 134}
    return entry
