"""Starting a vLLM server: flags with their origin, what must hold before, supervision, readiness, a clean stop."""

from dsa_doctor.launch.conditions import Condition
from dsa_doctor.launch.extra import ExtraArgumentError, Given, read_extra
from dsa_doctor.launch.flags import Flag, Variable, Wishes, launch_flags, launch_variables, server_command, verified
from dsa_doctor.launch.options import KnownOptions, ask_options
from dsa_doctor.launch.process import Exit, LaunchError, Server
from dsa_doctor.launch.watch import Outcome, Watcher, WatchOptions

__all__ = [
    "Condition",
    "Exit",
    "ExtraArgumentError",
    "Flag",
    "Given",
    "KnownOptions",
    "LaunchError",
    "Outcome",
    "Server",
    "Variable",
    "WatchOptions",
    "Watcher",
    "Wishes",
    "ask_options",
    "launch_flags",
    "launch_variables",
    "read_extra",
    "server_command",
    "verified",
]
