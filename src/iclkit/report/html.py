"""A web page in one file: no scripts, no network, readable on a telephone."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass, field

from iclkit.analysis.table import Table

_STYLE = """
:root { color-scheme: light; --ink: #23252b; --soft: #5f6673; --line: #e3e5ea; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 17px/1.6 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.2rem 1.1rem 4rem; }
p, ul { max-width: 44rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.01em; }
h2 { font-size: 1.4rem; line-height: 1.3; margin: 3rem 0 .6rem; }
h3 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
figure { margin: 1.4rem 0 1.8rem; }
figcaption, .note { color: var(--soft); font-size: .92rem; line-height: 1.5; max-width: 44rem; }
.wide { overflow-x: auto; -webkit-overflow-scrolling: touch; }
.wide img { display: block; width: 100%; height: auto; }
.wide.large img { min-width: 760px; }
.plot { max-width: 760px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .34rem .9rem .34rem 0; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 500; border-bottom: 1.5px solid var(--line); vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: #f3f4f7;
  padding: .1em .3em; border-radius: 3px; }
"""


@dataclass
class Page:
    """A page that is put together from top to bottom.

    Args:
        title: Title of the page.
    """

    title: str
    _parts: list[str] = field(default_factory=list)

    def heading(self, text: str, level: int = 2) -> None:
        """A heading."""
        self._parts.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, text: str, note: bool = False) -> None:
        """A paragraph; `code` in backticks is set as code."""
        kind = ' class="note"' if note else ""
        self._parts.append(f"<p{kind}>{_inline(text)}</p>")

    def figure(self, content: bytes, description: str, caption: str, large: bool = True) -> None:
        """A picture inside the file.

        Args:
            content: The PNG file.
            description: What it shows, for those who cannot see it.
            caption: The text below it.
            large: Whether the picture has many panels; it then scrolls on a narrow screen instead of shrinking.
        """
        data = base64.b64encode(content).decode("ascii")
        image = f'<img alt="{html.escape(description, quote=True)}" src="data:image/png;base64,{data}">'
        kind = "wide large" if large else "wide plot"
        self._parts.append(
            f'<figure><div class="{kind}">{image}</div><figcaption>{_inline(caption)}</figcaption></figure>'
        )

    def table(self, table: Table) -> None:
        """A table, which scrolls sideways on a narrow screen."""
        self._parts.append(f'<div class="wide">{table.html()}</div>')

    def render(self) -> str:
        """The page as the content of an HTML file."""
        body = "\n".join(self._parts)
        title = html.escape(self.title)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
            f"{body}\n</main>\n</body>\n</html>\n"
        )


def _inline(text: str) -> str:
    """Escaped text in which every second stretch between backticks is code."""
    return "".join(
        f"<code>{html.escape(part)}</code>" if i % 2 else html.escape(part)
        for i, part in enumerate(text.split("`"))
    )
