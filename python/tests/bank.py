"""Accounts that are moved between for ever: `bank.py make|move|watch|sum`. Killed at any moment, nothing is lost."""

import array
import random
import sys

import spacejmp

ACCOUNTS, EACH = 200, 100


def move(space):
    print("moving", flush=True)
    while True:
        with space.write("a move") as root:
            accounts = root["accounts"]
            source, target = random.sample(range(ACCOUNTS), 2)
            amount = random.randrange(EACH)
            accounts[f"a{source}"]["cents"] -= amount
            accounts[f"a{target}"]["cents"] += amount
            root["log"].append((source, target, amount))
            with memoryview(root["totals"]) as totals:
                totals[source] -= amount
                totals[target] += amount


def check(space):
    """What is wrong in the version that is the newest now: the sums, or that the two records differ."""
    with space.read() as root:
        accounts = [root["accounts"][f"a{number}"]["cents"] for number in range(ACCOUNTS)]
        with memoryview(root["totals"]) as totals:
            same = totals.tolist() == accounts
        return sum(accounts), same, len(root["log"])


def main():
    command = sys.argv[1]
    with spacejmp.open("bank") as space:
        if command == "make":
            with space.write() as root:
                root["accounts"] = {f"a{number}": {"cents": EACH} for number in range(ACCOUNTS)}
                root["totals"] = array.array("q", [EACH] * ACCOUNTS)
                root["log"] = []
        elif command == "move":
            move(space)
        elif command == "watch":
            moves = set()
            while len(moves) < 30:
                total, same, seen = check(space)
                assert (total, same) == (ACCOUNTS * EACH, True), (total, same)
                moves.add(seen)
            print("whole at", len(moves), "moments")
        else:
            print(*check(space))


main()
