"""URIs of tracking stores, checked before training starts, without loading MLflow."""

import os
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dist_calo.errors import TrackingError
from dist_calo.tracking.server import is_server_file

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


def checked_uri(uri: str) -> str:
    """Return the URI of a store in the form that holds in any working folder.

    Whether a server answers is not asked: one that is away is no error.

    Raises:
        TrackingError: if no store can have this URI.
    """
    if is_server_file(uri):
        return _checked_server_file(Path(uri).absolute())
    scheme = "databricks" if uri == "databricks" else uri.partition(":")[0] if "://" in uri else ""
    known = {*SCHEMES, *(point.name for point in entry_points(group="mlflow.tracking_store"))} - {"file", ""}
    if scheme.partition("+")[0] not in known:
        raise TrackingError(
            f"tracking.uri={uri}: not a tracking store; use sqlite:///FILE, a server's address (http://HOST:PORT) "
            f"or its server.env, another of MLflow's schemes ({', '.join(sorted(known))}), or none"
        )
    if scheme in ("http", "https") and not urlsplit(uri).hostname:
        raise TrackingError(f"tracking.uri={uri}: names no host; write http://HOST:PORT")
    return _checked_sqlite(uri) if scheme == "sqlite" else uri


def sqlite_file(uri: str) -> Path:
    """Return the database file of an SQLite store."""
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))


def sqlite_uri(file: Path) -> str:
    """Return the URI of a database file."""
    # What would have a meaning there, no more: MLflow makes an empty folder of the name as it stands in the URI.
    return "sqlite:///" + str(file).replace("%", "%25").replace("?", "%3F")


def _checked_server_file(file: Path) -> str:
    """Return the file's path; one that is not there yet is no error, as the server may start later."""
    if file.exists() and not (file.is_file() and os.access(file, os.R_OK)):
        raise TrackingError(
            f"tracking.uri={file}: cannot be read; name a server.env of your own, or ask its owner for the server's "
            "address and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return str(file)


def _checked_sqlite(uri: str) -> str:
    if not uri.startswith("sqlite:///") or sqlite_file(uri).name in ("", ":memory:"):
        raise TrackingError(
            f"tracking.uri={uri}: names no file; write sqlite:///FILE, or sqlite:////ABSOLUTE/FILE"
        )
    file = sqlite_file(uri).absolute()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        header = b""
        if file.exists():
            with file.open("rb") as opened:
                header = opened.read(16)
    except OSError as error:
        raise TrackingError(
            f"tracking.uri={uri}: {error.strerror}: {file}; name a file that can be written"
        ) from error
    if header and header != b"SQLite format 3\0":
        raise TrackingError(f"tracking.uri={uri}: {file} is not an SQLite database; name another file")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise TrackingError(f"tracking.uri={uri}: {file} cannot be written; name another file")
    return sqlite_uri(file)
