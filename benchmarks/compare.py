"""Runs the benchmarks of this machine's CPUs and compares each with the committed baseline: make bench.

    python benchmarks/compare.py [NAME ...] [--save]

What is compared are ratios, "times as fast" as the reference of the same run, since seconds differ from machine to machine. A
ratio that fell by more than a tenth is marked; where the machine is shared, run a marked one again before believing it.
--save makes the measured ratios the baseline. A benchmark that fails is named and the others go on. GPUs: benchmarks/gpu.py.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BASELINE = HERE / "baseline.json"
COMMANDS = {
    "views": [],
    "step": [],
    "evaluation": ["--epochs", "100"],
    "start": [],
    "folders": [],
    "overhead": ["local"],
    "sweep": [],
}
SLOWER = 0.9  # of the baseline


def ratios(measured: Any) -> Iterator[tuple[str, float]]:
    """What stands under "times as fast", however deep."""
    if isinstance(measured, dict):
        yield from measured.get("times as fast", {}).items()
        for value in measured.values():
            yield from ratios(value)


def lines(found: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """A line a ratio: now, then, and a mark where it got slower."""
    shown = []
    for name, now in found.items():
        then = baseline.get(name)
        mark = "" if then is None else "  SLOWER" if now < SLOWER * then else "  faster" if now > then / SLOWER else ""
        shown.append(f"{now:8.2f} {'   (new)' if then is None else f'{then:8.2f}'}  {name}{mark}")
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(COMMANDS)} (default: all)")
    parser.add_argument("--save", action="store_true", help="make these ratios the baseline")
    words = parser.parse_args()
    if unknown := set(words.names) - set(COMMANDS):
        sys.exit(f"error: there is no benchmark {', '.join(sorted(unknown))}: there are {', '.join(COMMANDS)}")
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    found: dict[str, float] = {}
    failed = []
    for name in words.names or COMMANDS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *COMMANDS[name]]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        print(done.stdout, file=sys.stderr)
        if done.returncode:
            failed.append(name)
        else:
            found |= dict(ratios(json.loads(done.stdout)))
    print("times as fast as the reference of the same run\n     now     then")
    print("\n".join(lines(found, baseline)))
    if words.save:
        BASELINE.write_text(json.dumps((baseline if words.names or failed else {}) | found, indent=1) + "\n")
    if failed:
        print(f"error: {', '.join(failed)} failed: see above", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
