"""Helpers for every package: console, text, errors, files, images, plug-ins; nothing about models, data or runs."""

from kindling.utils.logs import set_up_logging

set_up_logging()
