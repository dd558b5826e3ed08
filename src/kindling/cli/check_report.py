"""The page with thumbnails that `kindling check --out` writes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from kindling.cli.check_terminal import format_counts
from kindling.data.checks import DataReport, Finding
from kindling.evaluation.report.html import Html, element, join, section
from kindling.evaluation.report.page import page
from kindling.evaluation.report.samples import image_element
from kindling.utils.files import atomic_write
from kindling.utils.inputs import Levels, decode_image
from kindling.utils.text import count_noun

SHOWN = 24  # places of a finding
SIDE = 128  # pixels of a thumbnail
SHEETS = ("", "sheet found", "sheet found several")  # of places with no, one or more images


def write_check_page(report: DataReport, path: Path) -> None:
    """Write the findings about data, with thumbnails of the images, as one page that needs no other file."""
    title = f"Check of {report.source}"
    sizes = ", ".join(f"{number:,} {split}" for split, number in report.sizes.items())
    about = f"{count_noun(sum(report.sizes.values()), 'sample', 'samples')} ({sizes}) · {format_counts(report)}"
    parts = [element("h1", title), element("p", about, class_="soft")]
    root = Path(report.source)
    parts += [_finding_section(finding, root, report.levels) for finding in report.findings]
    with atomic_write(path) as temporary:
        temporary.write_text(page(title, join(parts)), encoding="utf-8")


def _finding_section(finding: Finding, root: Path, levels: Levels) -> Html:
    places = [*_places(finding, root, levels)]
    pictures = max((place.count("<img") for place in places), default=0)
    content = [element("p", finding.message)]
    if places:
        content.append(element("div", *places, class_=SHEETS[min(pictures, 2)]))
    if (more := len(finding.where) - SHOWN) > 0:
        content.append(element("p", f"and {more:,} more (kindling check --format json lists all)", class_="soft"))
    if finding.fix:
        content.append(element("p", f"What to do: {finding.fix}", class_="soft"))
    return section(f"{finding.severity}: {finding.check}", *content)


def _places(finding: Finding, root: Path, levels: Levels) -> Iterator[Html]:
    """Yield the places of a finding, with a thumbnail of each of its images."""
    for number, place in enumerate(finding.where[:SHOWN]):
        names = finding.samples[number] if finding.samples else ()
        pictures = [thumbnail for name in names if (thumbnail := _thumbnail(root / name, levels))]
        yield element("figure", element("div", *pictures), element("figcaption", *_caption(place, names), title=place))


def _caption(place: str, names: Sequence[str]) -> list[str]:
    """Return a place with the name of its file, if it begins with one, in a line of its own."""
    if names and place.startswith(names[0]):
        return [element("b", names[0]), place.removeprefix(names[0]).removeprefix(":").strip()]
    return [place]


def _thumbnail(path: Path, levels: Levels) -> Html | None:
    """Return a thumbnail as the model sees the image; None if there is no image that can be read."""
    try:
        return image_element(decode_image(path.read_bytes(), (3, SIDE, SIDE), levels=levels))
    except (OSError, ValueError):
        return None
