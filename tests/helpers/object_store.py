"""A server with the part of Google Cloud Storage's interface that this project uses: python object_store.py PORT

Objects are in memory, in one bucket named bucket. Preconditions on generations are checked, since concurrent writers
rely on them. The interface is that of https://cloud.google.com/storage/docs/json_api/v1.
"""

import base64
import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from local_server import LocalServer

BUCKET = "bucket"


class Object(NamedTuple):
    content: bytes
    generation: int


PATH = re.compile(
    r"/(?:(upload|download)/)?storage/v1/b/([^/]+)(?:/o(?:/([^/]*)(?:/(rewriteTo)/b/[^/]+/o/([^/]+))?)?)?"
)
objects: dict[str, Object] = {}
uploads: dict[str, tuple[str, bytearray]] = {}  # unfinished resumable uploads
lock = threading.RLock()
generations = iter(range(1, sys.maxsize))


class Failure(Exception):
    """An HTTP status other than success."""


def described(name: str) -> dict[str, object]:
    content, generation = objects[name]
    return {
        "kind": "storage#object", "bucket": BUCKET, "name": name, "id": f"{BUCKET}/{name}/{generation}",
        "size": str(len(content)), "generation": str(generation), "metageneration": "1",
        "contentType": "application/octet-stream", "storageClass": "STANDARD",
        "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
        "timeCreated": "2026-01-01T00:00:00.000Z", "updated": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip


def check(name: str, query: dict[str, str]) -> None:
    generation = objects[name].generation if name in objects else 0
    if int(query.get("ifGenerationMatch", generation)) != generation:
        raise Failure(412)
    if int(query.get("ifGenerationNotMatch", -1)) == generation:
        raise Failure(304)


def put(name: str, content: bytes, query: dict[str, str]) -> dict[str, object]:
    check(name, query)
    objects[name] = Object(content, next(generations))
    return described(name)


def delete(name: str, query: dict[str, str]) -> None:
    check(name, query)
    if name not in objects:
        raise Failure(404)
    del objects[name]


def listing(query: dict[str, str]) -> dict[str, object]:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    listed, prefixes = [], set()
    for name in sorted(objects):
        within = query.get("startOffset", "") <= name < query.get("endOffset", "\U0010ffff")
        if not name.startswith(prefix) or not within:
            continue
        rest = name[len(prefix) :]
        if delimiter and delimiter in rest:
            prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
        else:
            listed.append(described(name))
    return {"kind": "storage#objects", "items": listed, "prefixes": sorted(prefixes)}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with lock:
                self.route(self.command, address.path, query, body)
        except ConnectionError:
            self.close_connection = True  # the client closed the connection early
        except Failure as failure:
            status = failure.args[0]
            self.reply(None if status == 304 else {"error": {"code": status, "message": "refused"}}, status)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def route(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        if method == "POST" and path == "/batch/storage/v1":
            return self.batch(body)
        if "upload_id" in query:
            return self.resume(query["upload_id"], body)
        parts = PATH.fullmatch(path)
        if parts is None or unquote(parts[2]) != BUCKET:
            raise Failure(404)
        name = unquote(parts[3] or "")
        match method, parts[1]:
            case "POST", "upload":
                self.upload(query, body)
            case "POST", None:
                self.copy(name, unquote(parts[5]))
            case "DELETE", None:
                delete(name, query)
                self.reply(None, 204)
            case "GET", _ if name:
                self.get(name, query)
            case _:
                self.reply(listing(query) if path.endswith("/o") else {"kind": "storage#bucket", "name": BUCKET})

    def copy(self, name: str, target: str) -> None:
        if name not in objects:
            raise Failure(404)
        made = put(target, objects[name].content, {})
        size = made["size"]
        self.reply({"done": True, "totalBytesRewritten": size, "objectSize": size, "resource": made})

    def get(self, name: str, query: dict[str, str]) -> None:
        check(name, query)
        if name not in objects:
            raise Failure(404)
        if query.get("alt") == "media":
            self.media(objects[name])
        else:
            self.reply(described(name))

    def upload(self, query: dict[str, str], body: bytes) -> None:
        match query["uploadType"]:
            case "media":
                self.reply(put(query["name"], body, query))
            case "multipart":
                (boundary,) = re.findall(r'boundary="?([^";]+)"?', self.headers["Content-Type"])
                _, about, content, _ = body.split(b"--" + boundary.encode())
                end = b"\r\n" if about.startswith(b"\r\n") else b"\n"
                about, content = (part.partition(end + end)[2] for part in (about, content))
                self.reply(put(json.loads(about)["name"], content.removesuffix(end), query))
            case "resumable":
                key = str(next(generations))
                uploads[key] = (query.get("name") or json.loads(body)["name"], bytearray())
                where = f"http://{self.headers['Host']}/upload/storage/v1/b/{BUCKET}/o?upload_id={key}"
                self.reply({}, 200, Location=where)

    def resume(self, key: str, body: bytes) -> None:
        name, content = uploads[key]
        content += body
        if self.headers.get("Content-Range", "").endswith("/*") and body:
            return self.reply(None, 308, Range=f"bytes=0-{len(content) - 1}")
        del uploads[key]
        return self.reply(put(name, bytes(content), {}))

    def batch(self, body: bytes) -> None:
        """Answer a batch of deletions; other requests in it are ignored."""
        replies = []
        for number, path in re.findall(rb"Content-ID: <?([^>\r\n]+)>?.*?DELETE (\S+) HTTP", body, re.S):
            name = unquote(path.decode().partition("/o/")[2].partition("?")[0])
            with_status = "204 No Content" if objects.pop(name, None) else "404 Not Found"
            replies.append(
                "--answers\r\nContent-Type: application/http\r\n"
                f"Content-ID: <response-{number.decode()}>\r\n\r\n"
                f"HTTP/1.1 {with_status}\r\nContent-Length: 0\r\n\r\n\r\n"
            )
        whole = ("".join(replies) + "--answers--").encode()
        self.reply(whole, 200, **{"Content-Type": "multipart/mixed; boundary=answers"})

    def media(self, stored: Object) -> None:
        content, status, more = stored.content, 200, {"x-goog-generation": str(stored.generation)}
        if span := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            start = int(span[1]) if span[1] else max(0, len(content) - int(span[2]))
            end = min(int(span[2]) if span[1] and span[2] else len(content) - 1, len(content) - 1)
            if start >= len(content):
                raise Failure(416)
            more["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        self.reply(content, status, **more)

    def reply(self, content: object, status: int = 200, **headers: str) -> None:
        sent = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    LocalServer(("localhost", int(sys.argv[1])), Handler).serve_forever()
