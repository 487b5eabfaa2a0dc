"""The command line; ``nas.cli.app`` has the commands."""

from nas.cli.app import main

__all__ = ["main"]
