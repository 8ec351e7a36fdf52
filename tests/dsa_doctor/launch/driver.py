"""`run-model` without its check and its plan: starts and watches a server by the same functions, in a second.

Arguments: a JSON object {model, executable, port, host, log, extra, options}, where `options` are fields of RunOptions.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    from dsa_doctor.processes.interrupt import heed_signals

    heed_signals()
    from dsa_doctor.catalog.lookup import find_geometry
    from dsa_doctor.cli.output import console
    from dsa_doctor.launch.options import parse_help
    from dsa_doctor.launch.prepare import prepare
    from dsa_doctor.launch.request import launch_options
    from dsa_doctor.launch.run import RunOptions, serve
    from dsa_doctor.render.launch import LaunchNarrator
    from dsa_doctor.resolver.judgement import finding
    from dsa_doctor.resolver.resolve import undetermined
    from tests.dsa_doctor import facts_library
    from tests.dsa_doctor.launch.stand_in import HELP

    asked = json.loads(sys.argv[1])
    given = {"port": asked["port"], "host": asked["host"]}
    options = launch_options(asked["model"], given, tuple(asked["extra"]), executable=asked["executable"])
    verdict = undetermined(facts_library.facts(), finding("DSA911", "unknown", "no GPU"))
    prepared = prepare(options, find_geometry(asked["model"]), verdict, 1, lambda: parse_help(HELP))
    how = RunOptions(log=Path(asked["log"]), **{"force": True, **asked["options"]})
    raise SystemExit(serve(options, prepared, how, LaunchNarrator(console(stderr=True))))


if __name__ == "__main__":
    main()
