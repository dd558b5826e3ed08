"""Helpers for every package: console, text, errors, files, images, plug-ins; nothing about models, data or runs."""
