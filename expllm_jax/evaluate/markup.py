"""Small pieces of HTML. Whatever comes from data passes through `text` and is escaped; nothing else is spliced in."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from importlib import resources

# A heading of the reasoning as it looks after escaping (asterisks survive it): **Key Observations:**
_HEADING = re.compile(r"\*\*([^*\n]{1,60}?):?\*\*")


def text(value: object) -> str:
    """`value` as text that is safe between tags and inside quoted attributes."""
    return html.escape(str(value), quote=True)


def data_uri(content: bytes, media_type: str) -> str:
    """The content itself as an address, so that the page needs no other file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as "93.4 %"; an en dash where it is undefined."""
    return "–" if fraction is None or fraction != fraction else f"{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%"


def style() -> str:
    """The style element that all pages share: light and dark, narrow and wide."""
    return resources.files(__package__).joinpath("style.html").read_text(encoding="utf-8").strip()


def page(title: str, lead: str, body: str) -> str:
    """A whole page without a template of its own. `title` and `lead` are plain text, `body` is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{text(title)}</title>\n{style()}\n</head>\n<body>\n'
        f'<main>\n<header>\n<h1>{text(title)}</h1>\n<p class="lead">{text(lead)}</p>\n</header>\n{body}\n'
        "</main>\n</body>\n</html>\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str, hidden: bool = False) -> str:
    """A table of escaped cells in a box that scrolls on narrow screens; the first cell of a row is its heading.

    A `hidden` caption is only read aloud: for a table right below a heading that says the same.
    """
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{text(first)}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    hiding = ' class="hidden"' if hidden else ""
    caption_html = f"<caption{hiding}>{text(caption)}</caption>"
    head_html = f"<thead><tr>{head}</tr></thead>" if head else ""
    # Focusable, so that it can be scrolled from the keyboard.
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"<table>{caption_html}{head_html}<tbody>{body}</tbody></table></div>"
    )


def two_theme_picture(light: bytes, dark: bytes, alt: str) -> str:
    """A PNG that follows the reader's light or dark setting."""
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{data_uri(dark, "image/png")}">'
        f'<img class="plot" src="{data_uri(light, "image/png")}" alt="{text(alt)}"></picture>'
    )


def reasoning(raw: str) -> str:
    """A three-part text with its headings as headings and its blank lines as paragraphs; everything escaped."""
    escaped = html.escape(raw.strip(), quote=True)
    parts = []
    position = 0
    for match in _HEADING.finditer(escaped):
        parts.append(_paragraphs(escaped[position : match.start()]))
        parts.append(f"<h4>{match.group(1)}</h4>")
        position = match.end()
    parts.append(_paragraphs(escaped[position:]))
    return "".join(parts) or "<p><em>no text</em></p>"


def _paragraphs(escaped: str) -> str:
    return "".join(f"<p>{part.strip()}</p>" for part in re.split(r"\n\s*\n", escaped) if part.strip())
