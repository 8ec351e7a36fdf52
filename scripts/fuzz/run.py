"""Fuzzes the readers of what comes from outside, guided by coverage.

    pip install atheris
    python scripts/fuzz/run.py                              # every target, 10^6 executions each
    python scripts/fuzz/run.py elf facts --runs 100000 --corpus corpus/

A target fails where its reader raises anything but its own error, takes a second of CPU time for one input, or the
process needs more than 2 GiB. The input that did it is written to tests/data/fuzz/TARGET/, where a test reads it again.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "tests" / "data" / "fuzz"
_MOST_MEMORY_MIB = 2048
_INSTRUMENTED = {"policy": ["tomllib", "tomli"], "wheel": ["zipfile"]}
"""Libraries whose branches guide the fuzzer too."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="by default every one")
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions of each target")
    parser.add_argument("--seconds", type=int, default=0, help="stop each target after this time; 0 never")
    parser.add_argument("--corpus", type=Path, help="folder that keeps what reached new code, per target")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from scripts.fuzz.targets import TARGETS

    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target {', '.join(unknown)}. Accepted: {', '.join(TARGETS)}.")
    failed = [name for name in arguments.targets or TARGETS if not _fuzz(name, arguments)]
    return 1 if failed else 0


def _fuzz(name: str, arguments: argparse.Namespace) -> bool:
    """Run one target in a process of its own; print one line, and return whether nothing was found."""
    from scripts.fuzz.targets import TARGETS

    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="dsa-doctor-corpus-") as scratch:
        corpus = (arguments.corpus or Path(scratch)) / name
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(target.seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
        for file in (FOUND / name).glob("*"):
            (corpus / f"found-{file.name}").write_bytes(file.read_bytes())
        dictionary = Path(scratch) / "words"
        dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
        (FOUND / name).mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, __file__, "--worker", name, str(corpus), f"-runs={arguments.runs}", f"-dict={dictionary}",
            f"-max_len={target.longest}", f"-rss_limit_mb={_MOST_MEMORY_MIB}", "-timeout=60", "-print_final_stats=1",
            f"-artifact_prefix={FOUND / name}/", f"-max_total_time={arguments.seconds}",
        ]  # fmt: skip
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        seconds = time.monotonic() - start
    if not any((FOUND / name).iterdir()):
        (FOUND / name).rmdir()
    stats = {key: int(value) for key, value in re.findall(r"stat::(\w+):\s+(\d+)", done.stderr)}
    covered = re.findall(r"cov: (\d+)", done.stderr)
    executions = stats.get("number_of_executed_units", 0)
    verdict = "nothing found" if done.returncode == 0 else "FOUND SOMETHING"
    sys.stdout.write(
        f"{name:12} {executions:>9,} executions  {seconds:>6.0f} s  {executions / seconds:>7,.0f}/s  "
        f"coverage {covered[-1] if covered else 0:>5}  {stats.get('new_units_added', 0):>5} new inputs  "
        f"{stats.get('peak_rss_mb', 0):>5} MiB  {verdict}\n"
    )
    sys.stdout.flush()
    if done.returncode != 0:
        sys.stderr.write(done.stderr[-4000:])
    return done.returncode == 0


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{one:02x}" for one in word)


def _work(name: str, options: list[str]) -> None:
    import atheris

    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["dsa_doctor", *_INSTRUMENTED.get(name, [])]):
        from scripts.fuzz.targets import TARGETS, execute
    target = TARGETS[name]
    atheris.Setup([sys.argv[0], *options], lambda data: execute(target, data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _work(sys.argv[2], sys.argv[3:])
    else:
        raise SystemExit(main())
