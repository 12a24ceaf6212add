# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the server: by which names, from which web pages, with which token."""

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
VARIABLE = "FEW_LABEL_ACCESS"  # in the environment of the server and its processes
LOGIN = ("/auth/", "/auth/token")  # without a token: here clients get it


@dataclass(frozen=True)
class Access:
    """What the operator allows.

    Args:
        hosts: names and addresses by which the server is called, beside the loopback ones.
        origins: web pages of other servers that may call it, as "https://viewer.example.org".
        token: what every request must carry; empty for none.
        address: at which the server's own processes reach it.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str = ""
    address: str = LOOPBACK[0]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Access:
        """The one that :meth:`variable` was made of; loopback alone where there is none."""
        content = json.loads(environment.get(VARIABLE, "{}"))
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in content.items()})

    def variable(self) -> dict[str, str]:
        """An environment's variable for :meth:`from_environment`."""
        return {VARIABLE: json.dumps(asdict(self))}

    def names(self) -> list[str]:
        """Of the server, as they stand in a Host header."""
        return [f"[{host}]" if ":" in host else host for host in self._known()]

    def _known(self) -> list[str]:
        return [host.lower() for host in (*LOOPBACK, *self.hosts)]

    def of_this_server(self, origin: str, host: str) -> bool:
        """Whether a page is this server's own, or one that was named.

        Args:
            origin: the header of a browser.
            host: the header by which the server was called.
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
        """Whether an Authorization header carries the token: as Bearer, or as the password of Basic."""
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
        """Whether this is the token, in a time that does not tell how much of it is right."""
        return secrets.compare_digest(value.encode(), self.token.encode())


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
