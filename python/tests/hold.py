"""Looks at an array, on several threads, while other programs change it: `hold.py make|hold|change`."""

import array
import sys
import threading

import spacejmp

LENGTH = 5_000_000


def sums(view):
    """What several threads find."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(sum(view[::5000]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def main():
    with spacejmp.open("held") as space:
        if sys.argv[1] == "make":
            with space.write() as root:
                root["numbers"] = array.array("q", [1]) * LENGTH
        elif sys.argv[1] == "change":
            with space.write() as root:
                root["numbers"] = array.array("q", [2]) * LENGTH
        else:
            with space.read() as root, memoryview(root["numbers"]) as view:
                print(sums(view), flush=True)
                sys.stdin.readline()
                print(sums(view), len(root["numbers"]), flush=True)
            with space.read() as root, memoryview(root["numbers"]) as view:
                print(sums(view), flush=True)


main()
