#!/usr/bin/env bash
# Checks and measures everything that a GPU does, in eight minutes at most, and prints one table:
#
#     benchmarks/gpu.sh [FOLDER]
#
# FOLDER (default: results/gpu) gets the output of each part. PYTHON is the interpreter, DEVICE the device; with
# DEVICE=cpu ROUNDS=1 it only checks that this script runs. Parts that fail, such as for a missing package, are named,
# and the rest goes on.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-results/gpu} python=${PYTHON:-.venv/bin/python} device=${DEVICE:-cuda} rounds=${ROUNDS:-20}
[ -x "$python" ] || python=$(command -v python3)
mkdir -p "$out"

part() { # name, seconds at most, command
    local name=$1 limit=$2
    shift 2
    echo "== $name: $*"
    timeout "$limit" "$@" > "$out/$name.txt" 2>&1
    local code=$?
    echo "$code" > "$out/$name.code"
    [ $code = 0 ] || tail -n 5 "$out/$name.txt"
}
part tests 210 "$python" -m pytest -q -m cuda tests/test_cuda.py
part generator 60 "$python" -m benchmarks.inference --generator_only --device "$device" --batch_size 128
part training_expert 40 "$python" -m benchmarks.training --only expert --rounds "$rounds" --device "$device"
part training_generator 40 "$python" -m benchmarks.training --only generator --rounds "$rounds" --device "$device"
part training_hq 40 "$python" -m benchmarks.training --only hq --rounds "$rounds" --device "$device"
part end_to_end 90 "$python" -m benchmarks.end_to_end --seconds 10 --sizes 720p --face_detector centerface \
    --device "$device"

"$python" - "$out" << 'END'
import json, pathlib, sys

out = pathlib.Path(sys.argv[1])
print(f"\n{'part':22} {'figure':24} {'value':>12}")
for path in sorted(out.glob("*.txt")):
    code, lines = path.with_suffix(".code").read_text().strip(), path.read_text().splitlines()
    if path.stem == "tests" or code != "0":
        print(f"{path.stem:22} {'exit code ' + code:24} {lines[-1] if lines else ''}")
        continue
    print(f"{path.stem:22} {lines[0]}")
    for figures in (json.loads(line) for line in lines if line.startswith("{")):
        name = figures.pop("name")
        for key, value in figures.items():
            print(f"{'':22} {name + ' ' + key:34} {value:12.4f}")
END
