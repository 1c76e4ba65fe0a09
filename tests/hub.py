"""A stub of the Hugging Face Hub on loopback: repositories of files by commit, and the faults that a network has.

It speaks what huggingface_hub 1.33 speaks for `repo_info`, `snapshot_download`, `create_repo` and `upload_folder` over
the Git LFS protocol. Xet, the Hub's own transfer protocol, needs a storage service of its own; the stub offers none, so
that downloads take plain HTTP, and uploads do with ``HF_HUB_DISABLE_XET``. Large files are served by a redirect to
another host name, as the Hub does by its CDN.
"""

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".mp4", ".parquet", ".pt")
TOKEN = "hf_stubTokenThatMustNeverBePrinted"
CHUNK = 1024
PLURALS = {"models": "model", "datasets": "dataset"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


@dataclass
class Repository:
    """Files by commit; the last commit is the head of ``main``. ``access`` is open, private or gated."""

    kind: str
    name: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    access: str = "open"
    messages: list[str] = field(default_factory=list)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: Mapping[str, bytes], message: str = "") -> str:
        """Add a commit that holds exactly ``files``; returns its 40-hex name."""
        text = json.dumps([len(self.commits), self.name, {path: sha256(data) for path, data in files.items()}])
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[name] = dict(files)
        self.messages.append(message)
        return name


@dataclass
class Request:
    """One request as it came in."""

    method: str
    path: str
    host: str
    range: str | None
    authorized: bool


class Hub:
    """The stub's state and its faults.

    Attributes:
        requests: every request so far, oldest first.
        cuts: path of a file → how often its connection is cut after half of what was left to send.
        resets: the same, ended by a reset instead of a plain close.
        altered: path of a file → what is sent instead, under the right digest and size.
    """

    def __init__(self, endpoint: str, cdn: str):
        self.endpoint, self.cdn = endpoint, cdn
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.cuts: dict[str, int] = {}
        self.resets: dict[str, int] = {}
        self.altered: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def add(self, kind: str, name: str, folder: Path, access: str = "open") -> str:
        """Serve the files under ``folder`` as a new commit of a repository; returns the commit."""
        repository = self.repositories.setdefault((kind, name), Repository(kind, name))
        repository.access = access
        files = (item for item in sorted(Path(folder).rglob("*")) if item.is_file())
        return repository.commit({item.relative_to(folder).as_posix(): item.read_bytes() for item in files})

    def files(self, kind: str, name: str) -> dict[str, bytes]:
        """The files at the head of a repository."""
        repository = self.repositories[kind, name]
        return repository.commits[repository.head]

    def downloads(self, path: str) -> list[Request]:
        """Requests for the content of a file."""
        return [one for one in self.requests if one.method == "GET" and one.path.endswith(f"/{path}")]

    def fault(self, kind: str, path: str) -> bool:
        """Whether this transfer of ``path`` is to be cut; counts down."""
        faults = getattr(self, kind)
        with self.lock:
            if not faults.get(path):
                return False
            faults[path] -= 1
            return True


class Refusal(Exception):
    """An answer that is an error: status, and the Hub's code for it."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        # Until everything was read the connection cannot carry another request.
        self.body = self._read()
        self.authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        path = unquote(url.path)
        request = Request(self.command, path, self.headers["Host"], self.headers.get("Range"), self.authorized)
        with hub.lock:
            hub.requests.append(request)
        try:
            self._route(hub, path)
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
            self._send(refusal.status, {"error": str(refusal)}, headers)

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, value: Any, headers: Mapping[str, str] = {}) -> None:
        self._send_bytes(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def _send_bytes(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _route(self, hub: Hub, path: str) -> None:
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            digest, *name = parts[1:]
            return self._content("/".join(name), self.server.hub.stored[digest])
        if parts[0] == "lfs":
            hub.stored[parts[1]] = self.body
            return self._send(200, {})
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(hub, json.loads(self.body))
        if "resolve" in parts:
            kind = PLURALS.get(parts[0], "model")
            start = 1 if parts[0] in PLURALS else 0
            owner, name, _, revision, *file = parts[start:]
            return self._resolve(self._find(hub, kind, f"{owner}/{name}"), revision, "/".join(file))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(hub, json.loads(self.body))
        if parts[0] == "api" and parts[1] in PLURALS:
            repository = self._find(hub, PLURALS[parts[1]], "/".join(parts[2:4]))
            return self._api(hub, repository, *parts[4:])
        raise Refusal(404, "NotFound", f"the stub has no {path}")

    def _find(self, hub: Hub, kind: str, name: str) -> Repository:
        """The repository, if this request may see it; the Hub says 401 where one is missing or private."""
        repository = hub.repositories.get((kind, name))
        if repository is None:
            raise Refusal(404 if self.authorized else 401, "RepoNotFound", "Repository not found")
        if repository.access == "private" and not self.authorized:
            raise Refusal(401, "RepoNotFound", "Invalid username or password.")
        if repository.access == "gated" and not self.authorized:
            raise Refusal(401, "GatedRepo", f"Access to model {name} is restricted. Please log in.")
        return repository

    def _at(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = repository.head if revision == "main" and repository.commits else revision
        if commit not in repository.commits:
            if commit == "main":
                return "0" * 40, {}
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def _api(self, hub: Hub, repository: Repository, action: str = "revision", revision: str = "main", *_: str) -> None:
        if action == "commit":
            return self._commit(hub, repository)
        commit, files = self._at(repository, revision)
        if action == "revision":
            return self._send(
                200, {"id": repository.name, "sha": commit, "siblings": [{"rfilename": p} for p in files]}
            )
        if action == "tree":
            return self._send(200, [self._entry(path, data) for path, data in files.items()])
        if action == "preupload":
            asked = json.loads(self.body)["files"]
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if is_large(one["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for one in asked
            ]
            return self._send(200, {"files": modes})
        raise Refusal(404, "NotFound", f"the stub has no {action}")

    @staticmethod
    def _entry(path: str, data: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
        if is_large(path):
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
        return entry

    def _resolve(self, repository: Repository, revision: str, path: str) -> None:
        commit, files = self._at(repository, revision)
        if path not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            return self._send(404, {"error": "Entry not found"}, headers)
        data = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_oid(data)}"'}
        if not is_large(path):
            return self._content(path, data, headers)
        self.server.hub.stored[sha256(data)] = data
        headers |= {"X-Linked-ETag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        location = f"{self.server.hub.cdn}/cdn/{sha256(data)}/{path}"
        self._send_bytes(302, b"", headers | {"Location": location})

    def _content(self, path: str, data: bytes, headers: Mapping[str, str] = {}) -> None:
        """The bytes of a file, or the range that was asked for; here the faults happen."""
        hub = self.server.hub
        data = hub.altered.get(path, data)
        start = 0
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        data = data[start:]
        cut, reset = (self.command == "GET" and hub.fault(kind, path) for kind in ("cuts", "resets"))
        if not cut and not reset:
            return self._send_bytes(206 if start else 200, data, headers)
        self.send_response(206 if start else 200)
        for name, text in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.server.reset.add(self.connection)
        self.close_connection = True

    def _create(self, hub: Hub, asked: dict[str, Any]) -> None:
        if not self.authorized:
            raise Refusal(401, "", "Invalid username or password.")
        kind, name = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        if (kind, name) in hub.repositories:
            return self._send(409, {"error": "You already created this repo", "url": f"{hub.endpoint}/{name}"})
        access = "private" if asked.get("visibility") == "private" else "open"
        hub.repositories[kind, name] = Repository(kind, name, access=access)
        self._send(200, {"url": f"{hub.endpoint}/{name}", "name": name})

    def _batch(self, hub: Hub, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in hub.stored:
                entry["actions"] = {"upload": {"href": f"{hub.endpoint}/lfs/{one['oid']}"}}
            objects.append(entry)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, hub: Hub, repository: Repository) -> None:
        if not self.authorized:
            raise Refusal(401, "", "Invalid username or password.")
        files, message = dict(repository.commits[repository.head]) if repository.commits else {}, ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = hub.stored[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise Refusal(400, "", f"the stub has no operation {item['key']}")
        commit = repository.commit(files, message)
        url = f"{hub.endpoint}/{repository.name}/commit/{commit}"
        self._send(200, {"commitUrl": url, "commitOid": commit, "success": True})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.reset: set[socket.socket] = set()

    def shutdown_request(self, request: Any) -> None:
        """Without the orderly end where the connection is to be reset."""
        if request in self.reset:
            self.reset.discard(request)
            return self.close_request(request)
        super().shutdown_request(request)

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no fault of the stub's."""


@contextmanager
def serve() -> Iterator[Hub]:
    """Run the stub on a free port of the loopback for as long as the block lasts."""
    server = _Server(("127.0.0.1", 0), _Handler)
    port = server.server_address[1]
    server.hub = Hub(f"http://127.0.0.1:{port}", f"http://localhost:{port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def connect(monkeypatch, hub: Hub, cache: Path, token: str | None = None) -> None:
    """Point huggingface_hub in this process at the stub, with a cache of its own.

    A retry does not wait, and small files come in several chunks, as large ones do.
    """
    from huggingface_hub import close_session, constants, file_download

    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no_token"))
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda _: None))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    close_session()
