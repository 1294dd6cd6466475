"""Address of a tracking server: where it is now, whether anything listens there, and what its denials mean."""

import os
import shlex
import socket
import urllib.request
from urllib.parse import urlsplit

from dist_calo.files import read_bytes
from dist_calo.masking import hidden, revealed

CONNECT_WITHIN_S = 5.0
"""Time that a server has to take a connection, in seconds."""
SETTINGS = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def is_server_file(uri: str) -> bool:
    """Tell if a store is named by the file that ``slurm/mlflow_server.sh`` writes, rather than by its address."""
    return uri.endswith(".env") and "://" not in uri


def address_of(uri: str) -> str:
    """Return the address of a store at this moment; put the password of a server's file into the environment.

    Raises:
        ConnectionError: if the server's file names none, as it does while the server is away, or the address was stored
            without its password, which nothing tells now.
    """
    if not is_server_file(uri):
        return revealed(uri)
    try:
        text = read_bytes(uri, 1 << 16).decode()
        if "\0" in text:
            raise ValueError("a NUL byte")
        words = shlex.split(text, comments=True)
        found = dict(
            word.split("=", 1) for word in words if word.partition("=")[0] in SETTINGS and "=" in word
        )
        address = found.pop("MLFLOW_TRACKING_URI", "")
        host, _ = urlsplit(address).hostname, _port(address)
    except FileNotFoundError:
        raise ConnectionError(f"there is no file {uri}: start slurm/mlflow_server.sh") from None
    except (OSError, ValueError) as error:
        raise ConnectionError(f"{uri} is damaged ({error}): start slurm/mlflow_server.sh again") from None
    if not host:
        raise ConnectionError(f"no server runs: {uri} names none; start slurm/mlflow_server.sh")
    hidden(address)  # so that it is known as a secret, if it holds one
    os.environ.update(found)
    # The server is on the cluster's own network, for which a proxy to the outside is no help.
    for name in ("no_proxy", "NO_PROXY"):
        if host not in os.environ.get(name, "").split(","):
            os.environ[name] = ",".join(filter(None, [os.environ.get(name), host]))
    return address


def require_listening(address: str) -> None:
    """Check within seconds that something listens at a server's address.

    MLflow's client waits much longer where packets are dropped, as on compute nodes without a route.

    Raises:
        OSError: if no connection came about.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or parts.hostname is None:
        return
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname):
        return
    port = _port(address) or (443 if parts.scheme == "https" else 80)
    socket.create_connection((parts.hostname, port), CONNECT_WITHIN_S).close()


def _port(address: str) -> int | None:
    try:
        return urlsplit(address).port
    except ValueError:  # whose text would be a part of the password
        raise ConnectionError(
            "its address has no valid port; a password's / ? # are written %2F %3F %23"
        ) from None


def denial(error: BaseException) -> str | None:
    """Say what to do about an answer 401 or 403; None for any other error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    ask = getattr(error, "get_http_status_code", None)
    status = ask() if status is None and ask is not None else status
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    settings = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if status == 401:
        why = f"does not accept the password of user {user}" if user else "wants a user and a password"
        return f"{why} (401): {settings}"
    if status == 403 and "Host header" in str(error):
        return "is not to be called by this address (403): start it with --allowed-hosts naming it"
    if status == 403:
        remedy = f"ask for the permission EDIT, or {settings} to a user who has it"
        return f"does not let user {user} do this (403): {remedy}"
    return None
