# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Servers on the loopback interface from which bundles are downloaded."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REVISION = "0" * 40


class Files(SimpleHTTPRequestHandler):
    """The files of a folder, as any web server has them."""

    def log_message(self, *_: Any) -> None:
        pass


class Hub(BaseHTTPRequestHandler):
    """What Hugging Face's hub answers to who downloads one repository, ``owner/bundle``, with one tag."""

    def __init__(self, *arguments: Any, directory: str, tag: str) -> None:
        self.folder, self.tag = Path(directory), tag
        super().__init__(*arguments)

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        files = {str(f.relative_to(self.folder)): f for f in sorted(self.folder.rglob("*")) if f.is_file()}
        if path == "/api/models/owner/bundle/refs":
            main, tag = (
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": REVISION}
                for kind, name in (("heads", "main"), ("tags", self.tag))
            )
            self._answer(json.dumps({"branches": [main], "tags": [tag], "converts": []}).encode())
        elif path in (f"/api/models/owner/bundle/revision/{name}" for name in (self.tag, REVISION)):
            content = {"id": "owner/bundle", "sha": REVISION, "siblings": [{"rfilename": name} for name in files]}
            self._answer(json.dumps(content).encode())
        elif path.startswith("/api/models/owner/bundle/tree/"):
            tree = [
                {"type": "file", "path": name, "size": f.stat().st_size, "oid": _digest(f)} for name, f in files.items()
            ]
            self._answer(json.dumps(tree).encode())
        elif (name := path.removeprefix(f"/owner/bundle/resolve/{REVISION}/")) in files:
            headers = {"ETag": f'"{_digest(files[name])}"', "X-Repo-Commit": REVISION}
            self._answer(files[name].read_bytes(), headers)
        else:
            self.send_error(404)

    def _answer(self, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def serving(folder: Path, handler: type[BaseHTTPRequestHandler] = Files, **options: Any) -> Iterator[str]:
    """Serve a folder on the loopback interface.

    Args:
        folder: with the files.
        handler: of the requests.
        **options: of the handler.

    Yields:
        The address, such as "http://127.0.0.1:40123".
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder), **options))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
