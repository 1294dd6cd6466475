"""Reports as one HTML file that needs no network: a template, styles after those of all pages, images within."""

from collections.abc import Callable, Mapping
from typing import Any


def render(package: str, filters: Mapping[str, Callable[..., str]] | None = None, **values: Any) -> str:
    """Render the page of a package's ``report.html.j2``.

    Args:
        package: that holds the template; what it includes is looked for there and then here.
        filters: of the template, besides those of Jinja.
        values: what the template needs; a name that is missing is an error.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader(__name__, ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters or {})
    return environment.get_template("report.html.j2").render(**values)
