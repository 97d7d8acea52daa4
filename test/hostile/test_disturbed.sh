#!/usr/bin/env bash
# A little of what kill_points.py, many_hosts.py and scarce.py do to a run at length: kills, several
# hosts on one folder, and too little of everything.
set -uo pipefail
command -v python3 >/dev/null || { echo "no python3"; exit 77; }
[ -x "${PTQ_BUILD:-$PWD/build}/bin/ptq-host" ] || { echo "ptq-host is not built"; exit 77; }
"${PTQ_BUILD:-$PWD/build}/bin/ptq-host" doctor 2>&1 | grep -q asan && { echo "too slow under a sanitizer"; exit 77; }
failed=0
python3 test/hostile/kill_points.py --random 4 || failed=1
python3 test/hostile/many_hosts.py --hosts 3 --rounds 1 --kills 2 || failed=1
python3 test/hostile/scarce.py --short || failed=1
exit $failed
