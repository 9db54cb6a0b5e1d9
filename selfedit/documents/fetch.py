"""A web address → bytes. Runs in the child process of `worker`, which bounds the whole time.

Every address that is connected to is checked, also after a redirect: the name is resolved once, its addresses are
checked, and the connection goes to a checked address, so the name cannot point elsewhere in between. Behind a proxy of
the environment, the proxy resolves the name; a name that is known to be private here is refused all the same.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import zlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

from selfedit.documents.records import Raw
from selfedit.errors import DocumentError

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 10
_REDIRECTS = {301, 302, 303, 307, 308}
_SECRET_WORD = re.compile(
    r"""authentication|authori[sz]ation|bearer|code|jwt|key|otp|pass|pin|pwd|sas|sid|sig|tok
    |[a-z]*(?:accesskey|apikey|auth|consumerkey|credentials?|passwd|passwords?|secrets?|signature|token)
      (?:code|confirmation|data|hash|id|info|key|sig|ticket|value)?
    |(?:account|app|client|decryption|dev|developer|encryption|feed|function|host|license|map|master|pass|private|public
      |rss|server|service|shared|signing|ssh|storage|subscription|user)key(?:id)?
    |(?:login|my|php|user|web)?session(?:data|guid|hash|info|key|ticket|uuid|value)?|[a-z]*sessionid[a-z]*|(?:php)?sessid
    """,
    re.VERBOSE,
)
"""A word that makes the name of a parameter that of a secret."""
_PATH_PARAMETER = re.compile(r"(?:;|%3B)([^;/=%]+)(?:=|%3D)(?:(?!%3B)[^;/])*", re.IGNORECASE)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class MissingError(DocumentError):
    """The server has nothing at this address."""


def public_url(url: str) -> str:
    """The address without user name, password, fragment, and parameters of path and query that are named like secrets.

    Raises DocumentError if it is no address.
    """
    address = _parsed(url)
    path, mark, query = address.raw_path.decode("ascii").partition("?")
    path = _PATH_PARAMETER.sub(lambda found: "" if _is_secret(unquote(found[1])) else found[0], path)
    public = address.copy_with(userinfo=b"", fragment=None, raw_path=f"{path}{mark}{query}".encode())
    pairs = address.params.multi_items()
    if kept := [(name, value) for name, value in pairs if not _is_secret(name)]:
        return str(public if len(kept) == len(pairs) else public.copy_with(params=kept))
    return str(public.copy_with(query=None))


def requested_url(url: str) -> str:
    """The address with its secrets, as it is requested, in one spelling. Raises DocumentError if it is no address."""
    return str(_parsed(url).copy_with(fragment=None))


def without_password(url: str) -> str:
    """The text with an ellipsis for all between the scheme, if it has one, and the last @."""
    return re.sub(r"^(\s*[\w+.-]+:/*)?.*@", r"\1…@", url)


def fetch(
    url: str,
    *,
    max_bytes: int,
    seconds: float,
    allow_private: bool = False,
    trusted: Collection[str] = (),
    accept: str = "*/*",
) -> Raw:
    """Fetches a document, through at most MAX_REDIRECTS redirects. Raises DocumentError.

    `seconds`: the limit for each wait. `trusted`: hosts that may have a private address.
    """
    import httpx

    source, address = public_url(url), _parsed(url)
    try:
        for _ in range(MAX_REDIRECTS + 1):
            reply = _get(address, source, max_bytes, seconds, allow_private or address.host in trusted, accept)
            if not isinstance(reply, str):
                return reply
            address = _redirected(address, reply, source)
    except httpx.TimeoutException:
        raise DocumentError(f"{source}: takes more than {seconds:g} s; try again later") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
        if isinstance(error, DocumentError):
            raise
        # ImportError: a SOCKS proxy without its library. ValueError: an address that the libraries disagree about.
        reason = str(error) or type(error).__name__
        raise DocumentError(f"{source}: cannot be fetched ({reason}); check the address and the connection") from None
    raise DocumentError(f"{source}: more than {MAX_REDIRECTS} redirects; open the address in a browser")


def _redirected(address: httpx.URL, location: str, source: str) -> httpx.URL:
    try:
        return _parsed(str(address.join(location)))
    except DocumentError as error:
        raise DocumentError(f"{source}: redirects to {error}") from None


def unzipped(source: str, data: bytes, max_bytes: int) -> bytes:
    """The content of a gzip file, at most `max_bytes` of it. Raises DocumentError."""
    parts, size = [], 0
    try:
        while data:  # a gzip file may have several members
            stream = zlib.decompressobj(31)
            parts.append(stream.decompress(data, max_bytes + 1 - size))
            size += len(parts[-1])
            if size > max_bytes:
                limit = f"{max_bytes / 1e6:g} MB when unzipped"
                raise DocumentError(f"{source}: over the limit of {limit}; split it")
            if not stream.eof:
                raise zlib.error("it is cut off")
            data = stream.unused_data.lstrip(b"\0")
    except zlib.error as error:
        raise DocumentError(
            f"{source}: not a complete gzip file ({error}); zip it again, or give it unzipped"
        ) from None
    return b"".join(parts)


def _parsed(url: str) -> httpx.URL:
    import httpx

    try:
        address = httpx.URL(url.strip())
        fault = (
            "" if address.scheme in ("http", "https") else f"{address.scheme or 'no scheme'} instead of http or https"
        )
        fault = fault or ("" if address.host else "no host")
        str(address), address.port
    except (httpx.InvalidURL, ValueError) as error:
        fault = str(error) or type(error).__name__
    if fault:
        shown = without_password(url)[:200].partition("?")[0]
        fault = "not a valid address" if "@" in url else fault  # it may quote a piece of the password
        raise DocumentError(f"{shown}: cannot be fetched ({fault}); check the address")
    return address


def _is_secret(name: str) -> bool:
    """Whether a word of the name is one of a secret. The words of JSESSIONID, api_key, accessToken are separated by
    digits, punctuation marks and changes of case; the latter may stand inside a word too, as in APIkey."""
    words = re.findall(r"[a-z]+", name.lower()) + re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return any(_SECRET_WORD.fullmatch(word.lower()) for word in words)


def _get(
    address: httpx.URL, source: str, max_bytes: int, seconds: float, allow_private: bool, accept: str
) -> Raw | str:
    """The document, or the address that the server redirects to."""
    import httpx

    proxies, host = getproxies(), address.raw_host.decode("ascii")
    proxy = None if proxy_bypass(host) else proxies.get(address.scheme) or proxies.get("all")
    headers = {
        "Host": address.netloc.decode("ascii"),
        "user-agent": "selfedit",
        "accept": accept,
        "accept-encoding": "gzip",
    }
    auth = (address.username, address.password) if address.userinfo else None
    addresses = _checked_addresses(source, address, host, allow_private, must_resolve=not proxy)
    failure: httpx.ConnectError | None = None
    with httpx.Client(trust_env=False, proxy=proxy, verify=httpx.create_ssl_context(), timeout=seconds) as client:
        for ip in [host] if proxy else addresses:
            target, sni = address.copy_with(host=ip, userinfo=b"", fragment=None), {"sni_hostname": host}
            try:
                with client.stream("GET", target, headers=headers, auth=auth, extensions=sni) as response:
                    return _received(response, address, source, max_bytes)
            except httpx.ConnectError as error:  # e.g. no route for IPv6
                failure = error
    raise failure


def _received(response: httpx.Response, address: httpx.URL, source: str, max_bytes: int) -> Raw | str:
    if response.status_code in _REDIRECTS and "location" in response.headers:
        return response.headers["location"]
    if response.status_code != 200:
        kind = MissingError if response.status_code in (404, 410) else DocumentError
        raise kind(f"{source}: the server answered {response.status_code}; open the address in a browser")
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise DocumentError(
            f"{source}: the content is encoded as {encoding[:80]!r} in place of gzip; save it to a file"
        )
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            limit = f"over the limit of {max_bytes / 1e6:g} MB"
            raise DocumentError(f"{source}: {limit}; save the part you need to a file")
    data = bytes(body) if encoding == "identity" else unzipped(source, bytes(body), max_bytes)
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    name = address.path.rstrip("/").rpartition("/")[2] or address.host
    return Raw(source, name, data, media_type, response.charset_encoding)


def _checked_addresses(
    source: str, address: httpx.URL, host: str, allow_private: bool, *, must_resolve: bool
) -> list[str]:
    """The addresses of the host. Raises DocumentError if one is private and this is not allowed."""
    try:
        found = socket.getaddrinfo(
            host, address.port or {"http": 80, "https": 443}[address.scheme], type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        if must_resolve:
            raise
        return []
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private and (private := next((ip for ip in addresses if _is_private(ip)), None)):
        shown = private if private == host else f"{host[:100]} has the address {private}, which"
        raise DocumentError(f"{source}: {shown} is in a private or reserved network; give --allow-private to read it")
    return addresses


def _is_private(text: str) -> bool:
    ip = ipaddress.ip_address(text.partition("%")[0])
    return any(not one.is_global or one.is_multicast for one in (ip, *_inner_addresses(ip)))


def _inner_addresses(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            yield ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        yield from filter(None, (ip.ipv4_mapped, ip.sixtofour))
