"""From a checkpoint to production: exported files and a server. A project that needs neither deletes this folder."""
