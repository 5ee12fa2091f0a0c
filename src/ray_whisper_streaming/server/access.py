"""Who may come in: API keys, client tokens, and the origin of web pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from ray_whisper_streaming.server.keys import KeyLimits, Keyring
from ray_whisper_streaming.server.refusal import Refusal
from ray_whisper_streaming.server.tokens import TOKEN_PREFIX

__all__ = ["Access", "Credential", "Principal", "choose_subprotocol", "find_credential"]

ANY_ORIGIN = "*"

NO_LIMITS = KeyLimits()

SUBPROTOCOL_MARKS = ("token", "bearer")
"""A browser can't set headers on a WebSocket: pages send ``["token", CREDENTIAL]`` as subprotocols."""

SUBPROTOCOL_PREFIX = "openai-insecure-api-key."
"""How OpenAI's pages do the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a session belongs to.

    Attributes:
        name: of the key, for logs and metrics; empty for an anonymous client.
        tenant: on whose account streams run; the pool is fair between tenants.
        limits: the key's own, over the server's.
        session_id: the only session it may follow, where the token was made for that.
    """

    name: str = ""
    tenant: str = ""
    limits: KeyLimits = NO_LIMITS
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """What a client sent, and whether it stood in the address (which is logged by others)."""

    text: str
    in_query: bool = False


def find_credential(connection: HTTPConnection) -> Credential | None:
    """The credential of a request or WebSocket, wherever its protocol puts it.

    ``Authorization: Bearer KEY`` or ``Token KEY``, subprotocols ``token, KEY``, ``bearer, KEY`` and
    ``openai-insecure-api-key.KEY``, or ``?token=``.
    """
    kind, _, text = connection.headers.get("authorization", "").partition(" ")
    if kind.lower() in SUBPROTOCOL_MARKS and text.strip():
        return Credential(text.strip())
    offered: Sequence[str] = connection.scope.get("subprotocols", ())
    for mark, following in zip(offered, (*offered[1:], ""), strict=False):
        if mark.startswith(SUBPROTOCOL_PREFIX):
            return Credential(mark.removeprefix(SUBPROTOCOL_PREFIX))
        if mark.lower() in SUBPROTOCOL_MARKS and following:
            return Credential(following)
    token = connection.query_params.get("token")
    return Credential(token, in_query=True) if token else None


def choose_subprotocol(connection: HTTPConnection, *known: str) -> str | None:
    """The subprotocol to answer with: one of ``known``, or the mark in front of a credential, if offered.

    A browser that offered some gives up where the server takes none of them.
    """
    offered: Sequence[str] = connection.scope.get("subprotocols", ())
    return next((name for name in offered if name in known or name.lower() in SUBPROTOCOL_MARKS), None)


class Access:
    """Decides who a connection is.

    Args:
        keyring: the keys; None lets everyone in.
        allow_anonymous: let those without a credential in although there are keys.
        allowed_origins: of web pages, besides the server's own; ``*`` is any.
    """

    def __init__(
        self,
        keyring: Keyring | None,
        *,
        allow_anonymous: bool = False,
        allowed_origins: Sequence[str] = (),
    ) -> None:
        self.keyring = keyring
        self._anonymous = allow_anonymous or keyring is None
        self._origins = {origin.rstrip("/").lower() for origin in allowed_origins}

    def authenticate(self, connection: HTTPConnection) -> Principal:
        """Who it is.

        Raises:
            Refusal: ``unauthorized`` or ``forbidden``.
        """
        self._check_origin(connection)
        return self.identify(find_credential(connection))

    def identify(self, credential: Credential | None) -> Principal:
        """Whose credential it is, for protocols that bring it their own way. Raises `Refusal`."""
        if credential is None:
            if self._anonymous:
                return Principal()
            raise Refusal("unauthorized", "an API key or a client token is wanted")
        if self.keyring is None:
            return Principal()  # nobody is asked, so nobody is told that the answer is wrong
        is_token = credential.text.startswith(TOKEN_PREFIX)
        if credential.in_query and not is_token:
            raise Refusal(
                "unauthorized", "API keys don't belong into an address; send a header or a client token"
            )
        if is_token:
            key, session_id = self.keyring.check_token(credential.text)
        else:
            key, session_id = self.keyring.check(credential.text), None
        return Principal(name=key.name, tenant=key.key_id, limits=key.limits, session_id=session_id)

    def holds(self, principal: Principal) -> bool:
        """Whether the key is still good with which somebody came in, maybe long ago."""
        return self.keyring is None or not principal.tenant or self.keyring.holds(principal.tenant)

    def _check_origin(self, connection: HTTPConnection) -> None:
        """Pages of other sites may not use the keyless server of whoever looks at them."""
        origin = connection.headers.get("origin")
        if origin is None or ANY_ORIGIN in self._origins:
            return
        origin = origin.rstrip("/").lower()
        host = connection.headers.get("host", "").lower()
        if origin in self._origins or (host and origin.partition("://")[2] == host):
            return
        raise Refusal("forbidden", "pages of this origin may not use this server")
