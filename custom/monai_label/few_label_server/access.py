# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for access to the server: host names, web pages and token."""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

__all__ = ["LOGIN", "LOOPBACK", "VARIABLE", "Access"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
VARIABLE = "FEW_LABEL_ACCESS"  # variable in the environment of the server and its processes
LOGIN = ("/auth/", "/auth/token")  # without a token, since clients get it here


@dataclass(frozen=True)
class Access:
    """Rules that the operator sets.

    Args:
        hosts: names and addresses by which the server is called, in addition to loopback.
        origins: web pages of other servers that may call it, such as "https://viewer.example.org".
        token: required in every request; empty for none.
        address: at which the processes of the server reach it.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str = ""
    address: str = LOOPBACK[0]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Access:
        """Read the rules from :meth:`variable`; without it only loopback has access."""
        content = json.loads(environment.get(VARIABLE, "{}"))
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})

    def variable(self) -> dict[str, str]:
        """The rules as an environment variable for :meth:`from_environment`."""
        return {VARIABLE: json.dumps(asdict(self))}

    def names(self) -> list[str]:
        """Names of the server as in a Host header."""
        return [f"[{host}]" if ":" in host else host for host in self._known()]

    def _known(self) -> list[str]:
        return [host.lower() for host in (*LOOPBACK, *self.hosts)]

    def of_this_server(self, origin: str, host: str) -> bool:
        """Whether a web page belongs to this server or to one of the origins.

        Args:
            origin: header of the browser.
            host: header with the name of the server.
        """
        if origin in self.origins:
            return True
        try:
            page, server = urlsplit(origin), urlsplit(f"//{host}")
            ports = {address.port or _port(page.scheme) for address in (page, server)}
        except ValueError:
            return False
        bare = page.scheme in ("http", "https") and f"{page.scheme}://{page.netloc}" == origin
        return bare and "@" not in page.netloc and len(ports) == 1 and page.hostname in self._known()

    def lets_in(self, authorization: str) -> bool:
        """Whether an Authorization header has the token, as Bearer or as the password of Basic."""
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return self.is_token(value.strip())

    def is_token(self, value: str) -> bool:
        """Whether this is the token, compared in constant time."""
        return secrets.compare_digest(value.encode(), self.token.encode())


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
