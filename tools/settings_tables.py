"""Hook of the documentation site: tables of all settings, from the dataclasses that define them."""

import dataclasses
import re
from typing import Any

from docstring_parser import parse_from_object

from dist_calo.config import SECTIONS


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables in the place of ``{{ settings }}`` in a page."""
    return markdown.replace("{{ settings }}", "\n".join(map(table, SECTIONS)))


def table(section: str) -> str:
    """Return the heading and the table of one section in Markdown."""
    described = parse_from_object(SECTIONS[section])
    meanings = {entry.arg_name: " ".join((entry.description or "").split()) for entry in described.params}
    lines = [
        f"## {section}",
        "",
        described.short_description or "",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for setting in dataclasses.fields(SECTIONS[section]):
        factory = setting.default_factory
        default = setting.default if factory is dataclasses.MISSING else factory()
        lines.append(
            f"| `{setting.name}`<br>{kind(setting.type)} | `{default}` | {_plain(meanings[setting.name])} |"
        )
    return "\n".join(lines) + "\n"


def kind(declared: Any) -> str:
    """Return a declared type as a user would say it."""
    name = (
        declared.__name__
        if isinstance(declared, type) and not hasattr(declared, "__args__")
        else str(declared)
    )
    return _plain(re.sub(r"(typing\.)?Literal\[(.*?)\]", r"\2", name)).replace("'", "")


def _plain(text: str) -> str:
    """Return a text that may stand in a cell of a table."""
    return text.replace("``", "`").replace("|", "or")
