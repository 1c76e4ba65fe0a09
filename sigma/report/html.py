"""Self-contained pages: filling templates, embedding pictures as data URIs, and formatting values."""

import base64
from collections.abc import Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def number(value: float) -> str:
    """Three significant digits, trailing zeros kept, with a true minus sign."""
    text = "0" if value == 0 else f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}"
    return text.removesuffix(".").replace("-", "−")


def data_uri(kind: str, content: bytes) -> str:
    """``content`` as a data URI of the media type ``kind``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture(svg: str) -> str:
    """An SVG as a data URI for an ``img`` element, in which nothing can run and the page's style does not apply."""
    return data_uri("image/svg+xml", svg.encode())


def photo(jpeg: bytes) -> str:
    """A JPEG as a data URI."""
    return data_uri("image/jpeg", jpeg)


def flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested values into (dotted name, text) rows."""
    rows: list[tuple[str, str]] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", "–" if value is None else str(value)))
    return rows


def p_value(value: float) -> str:
    """p with three decimals."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def render(template: str, *, package: str = "sigma.report", **values: Any) -> str:
    """Fill a template of the package's ``templates/``; every package's pages may include those of ``sigma.report``.

    In a page (``.html``) text that comes from data is escaped. An unknown name is an error.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, "templates") for name in dict.fromkeys((package, "sigma.report"))]),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"flat": flat, "number": number, "p": p_value, "photo": photo, "picture": picture}
    return environment.get_template(template).render(**values)
