"""HTML and SVG in which every text is escaped: the names of classes and files are someone's data."""

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is HTML already; all other text is escaped where it becomes part of an element."""


def element(name: str, *children: object, **attributes: object) -> Html:
    """One element.

    Args:
        name: Its tag.
        *children: Elements or text within it.
        **attributes: Its attributes; `class_` stands for class, `text_anchor` for text-anchor.
    """
    marks = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items())
    if name in ("br", "img"):  # which have no end
        return Html(f"<{name}{marks}>")
    return Html(f"<{name}{marks}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Elements and text one after the other."""
    return Html("".join(child if isinstance(child, Html) else escape(str(child)) for child in children))


def table(header: Iterable[object], rows: Iterable[Iterable[Html]], **attributes: object) -> Html:
    """A table that scrolls in a box of its own where it is wider or longer than that.

    Args:
        header: Titles of the columns.
        rows: The cells of each row, `td` or `th` elements.
        **attributes: Of the table.
    """
    head = element("tr", *(element("th", title, scope="col") for title in header))
    body = (element("tr", *row) for row in rows)
    whole = element("table", element("thead", head), element("tbody", *body), **attributes)
    return element("div", whole, class_="scroll", tabindex=0)


def name_cell(name: object) -> Html:
    """The cell that says what its row is of."""
    return element("th", name, scope="row", class_="name")
