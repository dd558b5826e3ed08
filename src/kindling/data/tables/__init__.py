"""Tables: read, split and encoded. Nothing here serves other data."""

from kindling.data.tables.datamodule import TableDataModule

__all__ = ["TableDataModule"]
