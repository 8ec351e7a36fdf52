"""Starting a vLLM server: flags with their origin, what must hold before, supervision, readiness, a clean stop."""

from dsa_doctor.launch.conditions import Condition
from dsa_doctor.launch.extra import ExtraArgumentError, Given, read_config, read_extra
from dsa_doctor.launch.flags import Flag, Variable, launch_flags, launch_variables, server_command, verified
from dsa_doctor.launch.options import KnownOptions, ask_options
from dsa_doctor.launch.process import Exit, LaunchError, Server
from dsa_doctor.launch.request import Choice, LaunchOptions, Source, launch_options
from dsa_doctor.launch.watch import Outcome, Watcher, WatchOptions

__all__ = [
    "Choice",
    "Condition",
    "Exit",
    "ExtraArgumentError",
    "Flag",
    "Given",
    "KnownOptions",
    "LaunchError",
    "LaunchOptions",
    "Outcome",
    "Server",
    "Source",
    "Variable",
    "WatchOptions",
    "Watcher",
    "ask_options",
    "launch_flags",
    "launch_options",
    "launch_variables",
    "read_config",
    "read_extra",
    "server_command",
    "verified",
]
