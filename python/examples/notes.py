"""Notes that stay: a program of twenty lines that keeps a dict of lists.

    spacejmp run --root / --dir . python3 notes.py add home buy milk
    spacejmp run --root / --dir . python3 notes.py
"""

import sys
import time

import spacejmp

with spacejmp.open("notes") as space:
    if sys.argv[1:2] == ["add"]:
        subject, text = sys.argv[2], " ".join(sys.argv[3:])
        with space.write(f"a note on {subject}") as root:
            root.setdefault(subject, []).append({"text": text, "at": time.time()})
    with space.read() as root:
        for subject, notes in root.items():
            print(f"{subject}:")
            for note in notes:
                print(f"  {note['text']}, {time.strftime('%A %H:%M', time.localtime(note['at']))}")
