"""HTML elements whose text is escaped: names of classes and files may contain anything."""

import base64
import io
from collections.abc import Iterable
from html import escape

from matplotlib.figure import Figure


class Html(str):
    """Text that is already HTML; any other text is escaped when it becomes part of an element."""


def element(name: str, *children: object, **attributes: object) -> Html:
    """Return an HTML element; the attribute `class_` stands for `class`, `aria_label` for `aria-label`."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    html = "".join(f' {names[key]}="{escape(str(value))}"' for key, value in attributes.items())
    if name in ("br", "img"):  # elements without an end tag
        return Html(f"<{name}{html}>")
    return Html(f"<{name}{html}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Return elements and text in sequence."""
    return Html("".join(child if isinstance(child, Html) else escape(str(child)) for child in children))


def picture(content: bytes, kind: str = "png", **attributes: object) -> Html:
    """Return an image that contains its own file, of a kind such as png or jpeg."""
    return element("img", src=f"data:image/{kind};base64," + base64.b64encode(content).decode(), **attributes)


def figure_element(figure: Figure, description: str, caption: str) -> Html:
    """Return a chart with its caption below."""
    file = io.BytesIO()
    figure.savefig(file, format="png", transparent=True)
    return element("figure", picture(file.getvalue(), alt=description), element("figcaption", caption))


def section(title: str, *content: Html) -> Html:
    """Return a section with a heading."""
    return element("section", element("h2", title), *content)


def table(header: Iterable[object], rows: Iterable[Iterable[Html]], **attributes: object) -> Html:
    """Return a table of cells, `td` or `th`, that scrolls in its own box if it is too wide or too long."""
    head = element("tr", *(element("th", title, scope="col") for title in header))
    body = (element("tr", *row) for row in rows)
    whole = element("table", element("thead", head), element("tbody", *body), **attributes)
    return element("div", whole, class_="scroll", tabindex=0)


def name_cell(name: object) -> Html:
    """Return the header cell of a row."""
    return element("th", name, scope="row", class_="name")
