"""What every folder may use: text, console, errors, files, plug-ins. Nothing here knows models, data or runs."""
