"""The step of action.yml: turns its inputs into one `dsa-doctor check`, and the exit code into outputs.

Standard library alone: it runs under whatever Python 3 the runner has.
"""

import os
import subprocess
import sys

REPEATED = {
    "INPUT_WHEEL": "--wheel",
    "INPUT_PYTHON": "--python",
    "INPUT_FACTS": "--facts",
    "INPUT_OUTPUTS": "--output",
}
SINGLE = {"INPUT_POLICY": "--policy", "INPUT_MANIFEST": "--manifest"}


def read_input(name: str) -> str:
    """Return an input, without blanks around it."""
    return os.environ.get(name, "").strip()


def read_switch(name: str, default: str) -> bool:
    """Return a switch; anything but true and false stops the step, so that a typo does not open the gate."""
    text = read_input(name) or default
    if text not in {"true", "false"}:
        sys.stdout.write(f"::error title=dsa-doctor::input {name[len('INPUT_') :].lower()} must be true or false\n")
        sys.exit(2)
    return text == "true"


def arguments() -> "list[str]":
    """Return the command line; every input is an argument of its own, whatever it holds."""
    command = ["dsa-doctor", "check", "--format", "github"]
    for target in read_input("INPUT_TARGETS").split():
        command.append(f"--target={target}")
    for name, option in REPEATED.items():
        command += [f"{option}={line.strip()}" for line in read_input(name).splitlines() if line.strip()]
    for name, option in SINGLE.items():
        if read_input(name):
            command.append(f"{option}={read_input(name)}")
    if read_switch("INPUT_STRICT", "false"):
        command.append("--strict")
    return [*command, "--", *read_input("INPUT_MODELS").split()]


def main() -> int:
    """Run the check, tell the workflow the exit code, and return it where a failure is to fail the step."""
    fail = read_switch("INPUT_FAIL", "true")
    try:
        code = subprocess.run(arguments(), check=False).returncode
    except FileNotFoundError:
        sys.stdout.write("::error title=dsa-doctor::dsa-doctor is not installed; set the input install to true\n")
        return 1
    output = os.environ.get("GITHUB_OUTPUT")
    if output:
        with open(output, "a", encoding="utf-8") as stream:  # noqa: PTH123 - a script, not a library
            stream.write(f"exit-code={code}\npassed={'true' if code == 0 else 'false'}\n")
    # Wrong usage and a crash are no verdict: they fail the step whatever was asked.
    return code if fail or code < 4 else 0


if __name__ == "__main__":
    sys.exit(main())
