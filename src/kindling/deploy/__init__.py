"""From a checkpoint to production: exported files and a server."""
