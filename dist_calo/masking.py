"""Secrets: passwords and tokens reach no file, no message and no command line of another process.

An address that holds one is masked where it enters (`hidden`), so that settings, and all that is made of them, hold
``http://***@HOST``. What it was stays in this process's environment, which only its user can read and ranks that are
started here inherit; who connects asks for it (`revealed`). From texts that others wrote, `mask`
removes passwords in addresses and the values of variables such as MLFLOW_TRACKING_PASSWORD.
"""

import base64
import json
import os
import re
from collections.abc import Sequence
from urllib.parse import quote, unquote

MASK = "***"
_ADDRESSES = "DIST_CALO_ADDRESSES"
"""Environment variable with the addresses that were masked, as JSON: masked and as they were."""
_URI = re.compile(r"[A-Za-z][\w+.-]{0,40}://[^\s'\"<>]+")
_LOGIN = re.compile(r"(?<=://)(?:[^/?#]*@|[^/?#@:]*:(?!\d*(?:[/?#]|$)).*@)", re.DOTALL)
"""User and password of an address; also a password with a / that should have been %2F, but no port before a path."""
_KEY = "(?:api|access|auth|private|secret|encryption)[_-]?key(?:_id)?"
_SECRET = rf"[\w.-]{{0,40}}(?:token|secret|passw(?:or)?d|passphrase|[_-]pwd|{_KEY}|signature|credentials?)"
_QUERY = re.compile(rf"(?i)([?&;](?:{_SECRET}|pwd|sig|key|odbc_connect)=)([^&#\s'\"]+)")
_PATTERNS = (
    ("=", re.compile(rf"(?i)(\b{_SECRET}=)([^\s&'\",;]+)"), rf"\1{MASK}"),
    ("uthorization", re.compile(r"(?i)(\bauthorization\W+(?:basic|bearer)\s+)([\w.~+/=-]+)"), rf"\1{MASK}"),
    ("@", re.compile(r"(?<![\w.%+-])[\w.%+-]{1,40}:[^\s/@'\"]{1,200}@(?=[\w.-])"), f"{MASK}@"),
)
"""A sign of a secret in a text, the pattern that finds it, and what is shown; the last is an address without its
scheme."""
_VARIABLES = re.compile(rf"(?i)^{_SECRET}$")
"""Names of environment variables whose values are secrets."""
_SHORTEST = 6
"""Fewest characters of a secret that is looked for in texts: shorter ones are parts of words."""


def hidden(text: str) -> str:
    """Mask the addresses in a text; `revealed` gives them back, here and in processes started from here."""
    uris = [text] if re.match(r"[A-Za-z][\w+.-]{0,40}://", text) else _URI.findall(text)
    for uri in uris:
        masked = _masked(uri)
        if masked != uri:
            if MASK not in uri:
                os.environ[_ADDRESSES] = json.dumps({**_known(), masked: uri})
            text = text.replace(uri, masked)
    return text


def hidden_command(words: Sequence[str]) -> list[str]:
    """Mask a command line of ours, which all users of a machine can read; other programs would not understand it."""
    ours = any(re.match(r"(.*/)?dist[-_]calo", word) for word in words[:4])
    return [hidden(word) for word in words] if ours else list(words)


def revealed(uri: str) -> str:
    """Return the address to connect to, of one that may be masked.

    Where it was masked by another process, as in a spool: MLFLOW_TRACKING_URI if that is it, or with
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, which MLflow's client itself sends to servers.

    Raises:
        ConnectionError: if its password is known nowhere.
    """
    if MASK not in uri:
        return uri
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    known = {_masked(given): given} | _known()
    if uri in known:
        return known[uri]
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    if uri.startswith(("http://", "https://")):
        found = uri.replace(f"://{MASK}@", "://")
    else:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}" if user else MASK
        found = uri.replace(f"://{MASK}@", f"://{login}@")
    if MASK in found:
        raise ConnectionError(
            "its password is not stored: give the whole address again (--tracking.uri, or MLFLOW_TRACKING_URI), "
            "or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return found


def mask(text: str) -> str:
    """Return the text without passwords in addresses, and without the values of variables that hold secrets.

    Example:
        >>> mask("http://me:password@server:5000/api")
        'http://***@server:5000/api'
    """
    for secret in _secrets():
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", MASK, text)
    if "://" in text:
        text = _URI.sub(lambda found: _masked(found.group()), text)
    # Most texts hold neither, and pages of numbers should not be searched for names.
    for sign, pattern, shown in _PATTERNS:
        if sign in text:
            text = pattern.sub(shown, text)
    return text


def _masked(uri: str) -> str:
    return _QUERY.sub(rf"\1{MASK}", _LOGIN.sub(f"{MASK}@", uri, count=1))


def _known() -> dict[str, str]:
    return json.loads(os.environ.get(_ADDRESSES) or "{}")


def _secrets() -> list[str]:
    """Return the secrets that this process knows of, the longest first."""
    found = {value for name, value in os.environ.items() if _VARIABLES.search(name)}
    for uri in _known().values():
        if login := _LOGIN.search(uri):
            pair = unquote(login.group()[:-1])
            password = login.group()[:-1].partition(":")[2]
            found |= {
                password,
                unquote(password),
                quote(password, safe=""),
                quote(unquote(password), safe=""),
            }
            found.add(base64.b64encode(pair.encode()).decode())
        found |= {value for _, value in _QUERY.findall(uri)}
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    if password:
        found.add(base64.b64encode(f"{user}:{password}".encode()).decode())
    return sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True)
