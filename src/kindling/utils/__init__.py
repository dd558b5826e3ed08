"""What every folder may use: text, console, errors, files, plug-ins. Nothing here knows models, data or runs."""

from kindling.utils.logs import set_up_logging

set_up_logging()
