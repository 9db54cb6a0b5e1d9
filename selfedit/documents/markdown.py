"""Markdown, notebooks and reStructuredText → HTML.

Markdown is CommonMark with the tables, footnotes, alerts and directives of GitHub, MyST, MkDocs and Docusaurus, and
without the imports and comments of MDX. HTML inside Markdown stays as it is: `markup` reads it as a browser does.
"""

from __future__ import annotations

import html
import json
import re
from functools import cache

from selfedit.documents.notation import role_text
from selfedit.errors import DocumentError

_IMPORT = re.compile(
    r"(?:import\s+(?:[\w*{].*\sfrom\s+)?['\"][^'\"]+['\"];?|export\s+(?:const|default|function|let|var)\b.*)\s*"
)
_TEMPLATE = re.compile(r"\{%.*?%\}|\{\{[<%].*?[%>]\}\}|\{/\*.*?\*/\}")
_ROLE = re.compile(r"\{([\w:.+-]+)\}(`+)(.+?)\2", re.DOTALL)
_HEADING_ID = re.compile(r"(^#{1,6} .*?)\s*\{:?\s*[#.][^{}]*\}\s*$")
_CONTAINER = re.compile(r"\s*:{3,}\s*(?:\{(\w+)\}|(\w+))\s*(?:\[(.*)\]|(.*))")
_FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})\s*(.*)")
_ADMONITIONS = frozenset(
    "attention caution danger error hint important info note seealso success tip todo warning".split()
)
_SILENT_DIRECTIVE = re.compile(
    r"^([ \t]*)\.\. (?:contents|currentmodule|highlight|ifconfig|image|include|index|literalinclude|meta|module|only"
    r"|raw|tabularcolumns|toctree)::.*\n(?:(?:\1[ \t]+\S.*|[ \t]*)(?:\n|\Z))*",
    re.MULTILINE,
)
"""A directive of reStructuredText that shows nothing, or that shows something only in some editions; with its body."""


@cache
def _parser():
    from markdown_it import MarkdownIt
    from mdit_py_plugins.admon import admon_plugin
    from mdit_py_plugins.deflist import deflist_plugin
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.footnote import footnote_plugin
    from mdit_py_plugins.tasklists import tasklists_plugin

    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for plugin in (footnote_plugin, deflist_plugin, tasklists_plugin, admon_plugin):
        parser.use(plugin)
    return parser.use(dollarmath_plugin, allow_space=False, allow_digits=False)


def markdown_html(text: str) -> str:
    return f"<main>{_rendered(text)}</main>"


def _rendered(text: str) -> str:
    try:
        return _parser().render(_plain_markdown(text))
    except RecursionError:
        raise DocumentError("too deeply nested Markdown; nest it less, or save it as plain text") from None


def notebook_html(text: str) -> str:
    """The Markdown and code cells of a notebook; its outputs are left out."""
    try:
        notebook = json.loads(text)
        cells = notebook.get("cells") or [cell for sheet in notebook["worksheets"] for cell in sheet["cells"]]
        parts = []
        for cell in cells:
            source = cell.get("source", cell.get("input", ""))
            source = source if isinstance(source, str) else "".join(source)
            if cell["cell_type"] == "markdown":
                parts.append(_rendered(source))
            elif cell["cell_type"] == "heading":
                parts.append(f"<h{cell['level']}>{html.escape(source)}</h{cell['level']}>")
            elif cell["cell_type"] == "code":
                parts.append(f"<pre>\n{html.escape(source)}</pre>")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DocumentError(f"a damaged notebook ({type(error).__name__}); save it again, or give its text") from None
    body = "\n".join(parts)
    return f"<main>{body}</main>"


def plain_rst(text: str) -> str:
    """reStructuredText without the directives that show nothing."""
    return _SILENT_DIRECTIVE.sub("\n", text + "\n")


def _plain_markdown(text: str) -> str:
    """Resolves what CommonMark lacks, outside of code: containers, roles, heading ids, templates, imports of MDX."""
    lines: list[str] = []
    fence, directive, open_containers = "", "", 0
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2]:
                lines.append(_CLOSING if directive else line)
                fence = directive = ""
            elif not (directive and re.match(r"\s*:[\w-]+:", line)):
                lines.append(line)
        elif mark and (name := re.match(r"\{([\w-]+)\}\s*(.*)", mark[2])) and name[1] in _ADMONITIONS | {"admonition"}:
            fence, directive = mark[1], name[1]
            lines.append(_opening(name[1], name[2]))
        elif mark:
            fence = mark[1]
            lines.append(re.sub(r"\{[\w-]+\}.*", "", line))
        elif match := _CONTAINER.fullmatch(line):
            open_containers += 1
            lines.append(_opening(match[1] or match[2], match[3] or match[4] or ""))
        elif open_containers and re.fullmatch(r"\s*:{3,}\s*", line):
            open_containers -= 1
            lines.append(_CLOSING)
        elif not _IMPORT.fullmatch(line):
            lines.append(_HEADING_ID.sub(r"\1", _TEMPLATE.sub("", line)))
    return _ROLE.sub(_role, "\n".join(lines))


_CLOSING = "\n</aside>\n"


def _opening(name: str, title: str) -> str:
    if name not in _ADMONITIONS:
        return f"\n<aside>\n\n{title}\n" if name == "admonition" else "\n<aside>\n"
    return (
        f'\n<aside class="admonition {name}"><p class="title">{html.escape(title.strip() or name.capitalize())}</p>\n'
    )


def _role(match: re.Match[str]) -> str:
    name, text = match[1].rpartition(":")[2], match[3]
    if name in ("sup", "sub"):
        return f"<{name}>{text}</{name}>"
    return f"${text}$" if name == "math" else role_text(name, text)
