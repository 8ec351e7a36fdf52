"""`dsa-doctor cache`, and the option --no-cache of the commands that ask vLLM."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from dsa_doctor.cli.output import fail_usage, print_data

if TYPE_CHECKING:
    from dsa_doctor.cache import Keeper

NoCache = Annotated[bool, typer.Option("--no-cache", help="Ask everything anew, and keep no answer for the next run.")]

cache = typer.Typer(
    no_args_is_help=True, help="Answers that are kept between runs: where they are, how many; remove them."
)


def keeper_for(*, no_cache: bool) -> "Keeper | None":
    """Return what keeps answers between runs, or None where that is switched off; exits 2 on a wrong switch."""
    from dsa_doctor.cache import keeper_from_environment  # pydantic: not for --help

    try:
        return keeper_from_environment(wanted=not no_cache)
    except ValueError as error:
        fail_usage(str(error))


@cache.command(short_help="Say where kept answers are, how many and how large.")
def info() -> None:
    """Say where kept answers are, how many, how large, how old, and whether they are in use."""
    from dsa_doctor.cache.store import LARGEST_TOTAL_BYTES, Store

    used = keeper_for(no_cache=False) is not None
    store = Store.of_user()
    if store is None:
        fail_usage("cache: there is no home folder, so nothing is kept. XDG_CACHE_HOME names a folder instead.")
    content = store.content()
    age = (
        ""
        if content.oldest is None
        else f", the oldest from {time.strftime('%Y-%m-%d %H:%M', time.localtime(content.oldest))}"
    )
    print_data(
        f"folder   {store.folder}\n"
        f"entries  {content.entries}{age}\n"
        f"size     {content.size_bytes / 2**20:.1f} MiB of {LARGEST_TOTAL_BYTES >> 20} at most\n"
        f"in use   {'yes' if used else 'no (DSA_DOCTOR_CACHE=off)'}\n"
    )


@cache.command(short_help="Remove every kept answer.")
def clear() -> None:
    """Remove every kept answer; the next run asks everything anew."""
    from dsa_doctor.cache.store import Store

    store = Store.of_user()
    try:
        removed = store.clear() if store is not None else 0
    except OSError as error:
        fail_usage(f"cache clear: {error.filename} cannot be removed ({error.strerror}).")
    print_data(f"{removed} {'entry' if removed == 1 else 'entries'} removed\n")
