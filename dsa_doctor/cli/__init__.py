"""The command line: parses, calls and prints; each command in a file of its own."""


def main() -> None:
    """Run the command line; the exit codes are documented in docs/reference.md."""
    from dsa_doctor.processes.interrupt import heed_signals, leave

    heed_signals()  # before the imports, which take longer than a person who changes their mind
    from dsa_doctor.cli.app import main as run

    try:
        run()
    except SystemExit as end:
        leave(end.code)
        raise
