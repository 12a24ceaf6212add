# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Middleware of the server, which checks host names, web pages and token."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .access import LOGIN, Access

__all__ = ["layers"]

HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "SAMEORIGIN", "Referrer-Policy": "no-referrer"}
REALM = 'Basic realm="label server", charset="UTF-8"'
NO_TOKEN = "this server asks for its token: as the password of any user name, or as Authorization: Bearer <token>."


def layers(access: Access) -> list[Middleware]:
    """Middleware of the server, outermost first."""
    result = [
        Middleware(_OwnHeaders),
        Middleware(TrustedHostMiddleware, allowed_hosts=access.names(), www_redirect=False),
        Middleware(_OwnPages, access=access),
    ]
    if access.origins:
        allowed = {"allow_origins": access.origins, "allow_methods": ["*"], "allow_headers": ["*"]}
        result.append(Middleware(CORSMiddleware, **allowed, allow_credentials=True))
    if access.token:
        result.append(Middleware(_Token, access=access))
    return result


class _OwnHeaders:
    """Add headers that keep browsers from guessing types, and other pages from framing this one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class _OwnPages:
    """Refuse requests of browsers from web pages of other servers.

    CORS alone does not prevent them, because it only keeps a page from reading the answer. Browsers name the page in
    the header Origin or mark it in Sec-Fetch-Site; other programs send neither.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        problem = "websockets are not served." if scope["type"] != "http" else self._problem(scope)
        if not problem:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await JSONResponse({"detail": problem}, 403)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _problem(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1:
            return f"{len(hosts)} Host headers; send one."
        for origin in origins:
            if not self.access.of_this_server(origin, hosts[0]):
                return (
                    f"the web page of {origin[:200]} may not use this server, unless whoever runs it names that page."
                )
        foreign = headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
        link = scope["method"] == "GET" and headers.get("sec-fetch-dest") == "document"
        if foreign and not origins and not link:
            return "a web page of another server may not use this one."
        return ""


class _Token:
    """Refuse requests without the token."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).get("authorization", "") if scope["type"] == "http" else ""
        if scope["type"] == "lifespan" or scope.get("path") in LOGIN or self.access.lets_in(given):
            await self.app(scope, receive, send)
            return
        answer = JSONResponse({"detail": NO_TOKEN}, 401, {"WWW-Authenticate": REALM})
        await answer(scope, receive, send)
