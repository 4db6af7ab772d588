"""Says which endpoint an address names, and whether this machine's user lets a catalog send there.

A catalog comes from anybody, and so does the `base_url` in it. The prompts are made of the catalog's text, and the key
is the user's own: neither leaves before the user has named the endpoint. An address is read strictly and put together
anew, so that the client connects to the very host that was compared.
"""

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from catalog.errors import EndpointRefused, InputError
from catalog.trust.permissions import allow, is_allowed

if TYPE_CHECKING:
    from catalog.study.file import Study

DEFAULT_URL = "https://api.openai.com/v1"
_PORTS = {"http": 80, "https": 443}
_LONGEST = 2000
_ADDRESS = re.compile(r"(https?)://([^/?#]*)([^?#]*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_NUMERIC = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_FORM = "write http://HOST/PATH or https://HOST/PATH"


@dataclass(frozen=True)
class Endpoint:
    """Scheme, host and port in their one spelling, and the path below them."""

    scheme: str
    host: str
    """Lower case, without a dot at its end; IPv6 in brackets."""
    port: int
    path: str = ""

    @cached_property
    def name(self) -> str:
        """What is compared and allowed: scheme://host:port."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address to connect to."""
        return self.name + self.path

    @property
    def loopback(self) -> bool:
        """Whether it lies on this very machine, which is certain for these names alone."""
        return self.host in ("localhost", "[::1]") or (
            self.host.startswith("127.") and self.host.replace(".", "").isdigit()
        )


@dataclass(frozen=True)
class Permission:
    """Where prompts may go, and whether the environment's key may go with them."""

    endpoint: Endpoint
    key: bool


@lru_cache
def endpoint(url: str, what: str = "base_url") -> Endpoint:
    """The endpoint that an address names. Raises InputError, which never quotes a password, for one with mistakes."""
    if "@" in url:
        # Not only before the host: nothing of an address that may hold a password is quoted.
        raise InputError(f"{what} holds an @: {_FORM}, without a user name or password (the key is OPENAI_API_KEY)")
    said = repr(url if len(url) <= 100 else url[:100] + "...")
    if not url.isascii() and url.isprintable():
        raise InputError(f"{what} {said}: write the host in ASCII, a name of other letters as xn--...")
    found = _ADDRESS.fullmatch(url) if len(url) <= _LONGEST and url.isprintable() else None
    if re.match("https?://", url, re.IGNORECASE) is None:
        raise InputError(f"{what} {said} should be an address that starts with http:// or https://")
    if found is None or re.search(r'[\s\\<>"{}|^`]', url):
        raise InputError(f"{what} {said}: {_FORM}, without ?, #, blanks or backslashes")
    scheme, authority, path = found[1].lower(), found[2], found[3]
    parts = _AUTHORITY.fullmatch(authority)
    port = int(parts[2] or _PORTS[scheme]) if parts else 0
    if parts is None or not 0 < port < 65536:
        raise InputError(f"{what} {said}: its host and port are not HOST, HOST:PORT or [IPv6]:PORT; {_FORM}")
    return Endpoint(scheme, _host(parts[1], f"{what} {said}"), port, path)


def _host(written: str, where: str) -> str:
    try:
        if written.startswith("["):
            return f"[{ipaddress.IPv6Address(written[1:-1])}]"
        host = written.lower().removesuffix(".")
        if _NUMERIC.fullmatch(host.rpartition(".")[2]):
            # 2130706433, 127.1 and 0177.0.0.1 are addresses to some programs and names to others.
            return str(ipaddress.IPv4Address(host))
    except ValueError as error:
        raise InputError(f"{where}: {written} is no IP address; write four decimal numbers, or IPv6 in []") from error
    if any(not 0 < len(label) <= 63 for label in host.split(".")) or len(host) > 253:
        raise InputError(f"{where}: {written} is no host name")
    return host


def permission(base_url: str | None) -> Permission:
    """What may be sent to the endpoint that a catalog names; None is that of the environment, else OpenAI's.

    The environment's key goes to OPENAI_BASE_URL, or OpenAI where that is not set, and to what the user allowed; this
    machine gets prompts, but no key. Raises EndpointRefused for everything else, InputError for an address with
    mistakes.
    """
    own = os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    home = endpoint(own, "OPENAI_BASE_URL")
    if base_url is None:
        return Permission(home, key=True)
    asked = endpoint(base_url)
    if asked.name == home.name or is_allowed("endpoints", asked.name):
        return Permission(asked, key=True)
    if asked.loopback:
        return Permission(asked, key=False)
    plain = "; it is plain http, which others can read on the way" if asked.scheme == "http" else ""
    raise EndpointRefused(
        f"nothing was sent to {asked.name}, neither text nor key: nobody has allowed it on this machine{plain}. If you "
        f"trust it: saeql refresh --allow-endpoint {asked.name}, or pass the study file that names it (--study FILE)"
    )


def allow_endpoint(url: str) -> str | None:
    """Allow an endpoint on this machine, with text and key; its name, None if it was allowed before.

    Raises InputError for an address with mistakes, or if the list of what is allowed cannot be written.
    """
    name = endpoint(url).name
    if is_allowed("endpoints", name):
        return None
    allow("endpoints", name)
    return name


def allow_named(study: "Study") -> list[str]:
    """Allow the endpoints of a study that the user passed; the names of those that were not allowed before."""
    return [name for url in named(study) if (name := allow_endpoint(url)) is not None]


def named(study: "Study") -> list[str]:
    """The addresses that explainers and scorers of a study name."""
    sections: Iterable[tuple[str, str | None]] = [
        (part.provider, part.base_url) for part in (*study.explainers, *study.scorers)
    ]
    return list(dict.fromkeys(url for provider, url in sections if provider == "openai" and url is not None))
