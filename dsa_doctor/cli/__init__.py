"""The command line: parses, calls and prints; each command in a file of its own."""

from dsa_doctor.cli.app import main

__all__ = ["main"]
