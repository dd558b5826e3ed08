"""Prints the findings of `kindling check` to the terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from kindling.data.checks import DataReport, Finding
from kindling.utils.console import new_table, say
from kindling.utils.text import count_noun, format_numbers, join_names, shorten

MAX_LINES = 15  # of a table
MAX_PLACES = 5  # of a finding; JSON has all


def print_report(report: DataReport) -> None:
    """Print the contents of the data, the findings, errors first, and how many there are."""
    sizes = join_names([f"{number:,} {split}" for split, number in report.sizes.items()])
    say(f"{report.source}: {sum(report.sizes.values()):,} samples ({sizes})")
    for name, text in report.contents.items():
        say(f"{name}: {text}")
    if report.classes:
        say(_classes_table(report.classes, sum(report.sizes.values())))
    if report.targets:
        say(_targets_table(report.targets))
    if report.missing:
        say(_missing_table(report.missing, sum(report.sizes.values())))
    if report.notes:
        say("\n".join(["notes from reading:", *(f"  {shorten(note)}" for note in report.notes)]))
    for finding in report.findings:
        say(_format_finding(finding))
    say(f"\n{format_counts(report)}" if report.findings else "no findings")


def format_counts(report: DataReport) -> str:
    """Return the number of errors and warnings, in words."""
    errors, warnings = report.count("error"), report.count("warning")
    return f"{count_noun(errors, 'error', 'errors')}, {count_noun(warnings, 'warning', 'warnings')}"


def _format_finding(finding: Finding) -> str:
    lines = [f"\n{finding.severity}: {finding.check}: {finding.message}"]
    places = [place for place in finding.where if f"column {place}" not in finding.message]
    lines += [f"  {shorten(place, 120)}" for place in places[:MAX_PLACES]]
    if len(places) > MAX_PLACES:
        lines.append(f"  and {len(places) - MAX_PLACES:,} more (--format json lists all)")
    if finding.fix:
        lines.append(f"  -> {finding.fix}")
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], what: str) -> Table:
    table = new_table("", *header)
    for row in rows[:MAX_LINES]:
        table.add_row(*row)
    if len(rows) > MAX_LINES:
        table.caption = f"and {len(rows) - MAX_LINES:,} more {what}"
    return table


def _classes_table(classes: Mapping[str, Mapping[str, int]], total: int) -> Table:
    """Return the number of samples of each class and its share in all, the largest first."""
    splits = [*next(iter(classes.values()))]
    ordered = sorted(classes.items(), key=lambda one: -sum(one[1].values()))
    rows = [
        [shorten(name, 40), *(f"{counts[split]:,}" for split in splits), f"{sum(counts.values()) / max(total, 1):.1%}"]
        for name, counts in ordered
    ]
    return _table(["class", *splits, "share"], rows, "classes")


def _targets_table(targets: Mapping[str, Mapping[str, float]]) -> Table:
    names = [*next(iter(targets.values()))]
    rows = [[split, *format_numbers([numbers[name] for name in names])] for split, numbers in targets.items()]
    return _table(["target", *names], rows, "splits")


def _missing_table(missing: Mapping[str, int], total: int) -> Table:
    ordered = sorted(missing.items(), key=lambda one: -one[1])
    rows = [[shorten(name, 40), f"{number:,}", f"{number / total:.1%}"] for name, number in ordered]
    return _table(["column", "missing", "share"], rows, "columns with missing values")
