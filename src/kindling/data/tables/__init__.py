"""Tables: read, split and encode them; no other kind of data."""

from kindling.data.tables.datamodule import TableDataModule

__all__ = ["TableDataModule"]
