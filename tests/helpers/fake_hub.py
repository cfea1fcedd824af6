"""A server with the part of the Hugging Face Hub's interface that huggingface_hub uses.

FOLDER/ORGANISATION/NAME are its models, and FOLDER/datasets/ORGANISATION/NAME its data sets, which everybody may read
unless they have a file named .private or .gated.
Commits are written there, and TOKEN is the only valid token. The interface is that of https://huggingface.co/docs/hub/api.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import constants
from local_server import LocalServer

from research.pretrained.hub import download

TOKEN = "hf_test"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HIDDEN = (".private", ".gated")


class Refusal(Exception):
    """An error of the hub: a status and its name in X-Error-Code."""


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    requests: list[str]  # of all files that were asked for
    calls: list[str]  # the path of every request
    commit = COMMIT  # the newest

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, content, headers = 200, *self.route(unquote(urlsplit(self.path).path), body)
        except Refusal as refusal:
            status, code = refusal.args
            content, headers = b"{}", {"X-Error-Code": code, "X-Error-Message": code}
        if status == 200 and (span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")):
            start, stop = int(span[1]), min(int(span[2]) + 1, len(content))
            headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"} | headers
            status, content = 206, content[start:stop]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def route(self, path: str, body: bytes) -> tuple[bytes, dict[str, str]]:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self.calls.append(path)
        parts = path.strip("/").split("/")
        match parts:
            case ["api", "whoami-v2"]:
                if not known:
                    raise Refusal(401, "Unauthorized")
                return as_json({"name": "tester", "type": "user"})
            case ["api", "repos", "create"]:
                if not known:
                    raise Refusal(401, "Unauthorized")
                asked = json.loads(body)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                return as_json({"url": f"{self.base}/{name}"})
            case ["api", "validate-yaml"]:
                return as_json({"errors": [], "warnings": []})
            case ["api", "models", organisation, name, *rest]:
                return self.model(f"{organisation}/{name}", rest, body, known)
            case ["api", "datasets", organisation, name, *rest]:
                return self.model(f"datasets/{organisation}/{name}", rest, body, known)
            case ["datasets", organisation, name, "resolve", revision, *file]:
                return self.file(f"datasets/{organisation}/{name}", revision, "/".join(file), known)
            case [organisation, name, "resolve", revision, *file]:
                return self.file(f"{organisation}/{name}", revision, "/".join(file), known)
        raise Refusal(404, "NotFound")

    @property
    def base(self) -> str:
        return f"http://{self.headers['Host']}"

    def check(self, model: str, revision: str, known: bool) -> Path:
        folder = self.folder / model
        if not folder.is_dir() or ((folder / ".private").exists() and not known):
            raise Refusal(401 if not known else 404, "RepoNotFound")
        if revision not in ("main", self.commit):
            raise Refusal(404, "RevisionNotFound")
        return folder

    def model(self, name: str, rest: list[str], body: bytes, known: bool) -> tuple[bytes, dict[str, str]]:
        revision = rest[1] if len(rest) > 1 else "main"
        folder = self.check(name, revision, known)
        files = [file for file in sorted(folder.iterdir()) if file.name not in HIDDEN]
        match rest:
            case [] | ["revision", _]:
                siblings = [{"rfilename": file.name, "size": file.stat().st_size} for file in files]
                return as_json({"id": name, "sha": self.commit, "siblings": siblings, "private": False, "tags": []})
            case ["tree", *_]:
                return as_json([described(file) for file in files])
            case ["paths-info", _]:
                asked = parse_qs(body.decode())["paths"]
                return as_json([described(file) for file in files if file.name in asked])
            case ["preupload", _]:
                asked = json.loads(body)["files"]
                return as_json(
                    {
                        "files": [
                            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked
                        ]
                    }
                )
            case ["commit", _]:
                for line in body.decode().splitlines():
                    change = json.loads(line)
                    if change["key"] == "file":
                        content = base64.b64decode(change["value"]["content"])
                        (folder / change["value"]["path"]).write_bytes(content)
                url = f"{self.base}/{name}/commit/{COMMIT}"
                return as_json({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        raise Refusal(404, "NotFound")

    def file(self, model: str, revision: str, name: str, known: bool) -> tuple[bytes, dict[str, str]]:
        folder = self.check(model, revision, known)
        if (folder / ".gated").exists():
            raise Refusal(403, "GatedRepo")
        path = folder / name
        if not path.is_file():
            raise Refusal(404, "EntryNotFound")
        self.requests.append(f"{model}/{name}")
        return path.read_bytes(), {"X-Repo-Commit": self.commit, "ETag": f'"{oid(path)}"'}


def oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def described(file: Path) -> dict[str, Any]:
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": oid(file)}


def as_json(value: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(value).encode(), {"Content-Type": "application/json"}


@contextmanager
def served(folder: Path, cache: Path, patch: Any) -> Iterator[Any]:
    """Serve the models in `folder` as the hub, with an empty cache; `requests` of the result list the files asked for.

    huggingface_hub has read its variables when it was imported, so its constants are patched.
    """
    handler = type("FolderHub", (Hub,), {"folder": folder, "requests": [], "calls": []})
    server = LocalServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    point_to(f"http://127.0.0.1:{server.server_port}", patch)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setenv("HF_TOKEN", TOKEN)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def point_to(endpoint: str, patch: Any) -> None:
    patch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    download.cache_clear()
