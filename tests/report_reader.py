"""Parses the visible content of `report.html`."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path


@dataclass
class Page:
    """The visible content of a report: tables by the heading above them, pictures and captions."""

    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    heat_maps: list[str] = field(default_factory=list)  # their descriptions
    captions: list[str] = field(default_factory=list)
    text: str = ""


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page, self.heading, self.inside = Page(), "", ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        if tag == "h2":
            self.heading = ""
        elif tag == "tr":
            self.page.tables.setdefault(self.heading, []).append([])
        elif tag in ("th", "td"):
            self.page.tables[self.heading][-1].append("")
        elif tag == "img" and self.heading == "Worst predictions":
            attributes = dict(attrs)
            if attributes["alt"]:
                self.page.heat_maps.append(attributes["alt"])
            else:
                self.page.pictures.append(attributes["src"] or "")
        elif tag == "figcaption":
            self.page.captions.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "figcaption"):
            self.inside = ""

    def handle_data(self, data: str) -> None:
        self.page.text += data
        if self.inside == "h2":
            self.heading += data
        elif self.inside in ("th", "td", "span") and self.heading in self.page.tables:
            self.page.tables[self.heading][-1][-1] += data
        elif self.page.captions and self.inside in ("figcaption", "b", "br"):
            self.page.captions[-1] += data


def read(run: Path) -> Page:
    """Parse the report in a run folder."""
    reader = Reader()
    reader.feed((run / "report.html").read_text(encoding="utf-8"))
    return reader.page
