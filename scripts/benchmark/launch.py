"""Runs one command and writes the resources that it used, as reported by the operating system.

    python3 -I -S launch.py RESULT COMMAND…

It is a process of its own, because the kernel counts a child's peak memory from that of its parent at
the fork, and this process uses little. RESULT becomes a line of JSON: wall seconds, CPU seconds and
peak bytes of the command and its children, and the exit code (negative for a signal).
"""

import json
import os
import sys
import time


def main():
    result, command = sys.argv[1], sys.argv[2:]
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            # Where memory runs out the command goes, not what else runs here.
            with open("/proc/self/oom_score_adj", "w") as score:
                score.write("1000")
        except OSError:
            pass
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    wall = time.monotonic() - start
    with open(result, "w") as file:
        json.dump({
            "wall_s": wall,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "exit": os.waitstatus_to_exitcode(status),
        }, file)


main()
