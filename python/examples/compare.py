"""What a start, a lookup and a change cost, with SpaceJMP and with what Python has.

    python3 compare.py pickle FOLDER        also shelve, memmap, lmdb (pip install lmdb)
    spacejmp run --root / --dir . python3 compare.py spacejmp

Each is run twice: the first run fills, the second measures what the next program finds.
"""

import pickle
import random
import shelve
import sys
import time

RECORDS = 200_000
LOOKUPS = 10_000
CHANGES = 50
NUMBERS = 20_000_000


def record(number):
    return {"name": f"record {number}", "tags": ["a", "b"], "price": number / 7, "stock": number}


def timed(what, work, per=1):
    start = time.perf_counter()
    result = work()
    took = (time.perf_counter() - start) / per
    print(f"{what:42} {took * 1e6:14.1f} us")
    return result


def keys():
    chooser = random.Random(1)
    return [f"key {chooser.randrange(RECORDS)}" for _ in range(LOOKUPS)]


def with_spacejmp():
    import spacejmp

    def first():
        with spacejmp.open("compare") as space, space.read() as root:
            return root["key 77"]["stock"]

    def look(root):
        return sum(root[key]["stock"] for key in wanted)

    def change():
        for number in range(CHANGES):
            with space.write() as root:
                root["key 77"]["stock"] = number

    if not timed("open, whether it is filled", lambda: is_filled(spacejmp)):
        with spacejmp.open("compare") as space, space.write() as root:
            timed("fill", lambda: root.update((f"key {n}", record(n)) for n in range(RECORDS)))
        return
    timed("start: open, one value", first)
    wanted = keys()
    with spacejmp.open("compare") as space:
        with space.read() as root:
            timed("a lookup", lambda: look(root), LOOKUPS)
        timed("a change, committed", change, CHANGES)


def is_filled(spacejmp):
    with spacejmp.open("compare") as space, space.read() as root:
        return len(root) == RECORDS


def with_pickle(folder):
    path = f"{folder}/compare.pickle"

    def load():
        with open(path, "rb") as file:
            return pickle.load(file)

    def store():
        with open(path, "wb") as file:
            pickle.dump(data, file, pickle.HIGHEST_PROTOCOL)

    try:
        data = timed("start: load, one value", load)
    except FileNotFoundError:
        data = {f"key {n}": record(n) for n in range(RECORDS)}
        timed("fill", store)
        return
    wanted = keys()
    timed("a lookup", lambda: sum(data[key]["stock"] for key in wanted), LOOKUPS)
    timed("a change, written", store)


def with_shelve(folder):
    path = f"{folder}/compare.shelf"

    def first():
        with shelve.open(path) as shelf:
            return shelf.get("key 77")

    if timed("start: open, one value", first) is None:
        with shelve.open(path) as shelf:
            timed("fill", lambda: shelf.update((f"key {n}", record(n)) for n in range(RECORDS)))
        return
    wanted = keys()
    with shelve.open(path) as shelf:
        timed("a lookup", lambda: sum(shelf[key]["stock"] for key in wanted), LOOKUPS)

        def change():
            for number in range(CHANGES):
                one = shelf["key 77"]
                one["stock"] = number
                shelf["key 77"] = one
                shelf.sync()

        timed("a change, written", change, CHANGES)


def with_lmdb(folder):
    import lmdb

    # As ours by default: what is committed is not lost by a kill, and synced later.
    def opened():
        return lmdb.open(f"{folder}/compare.lmdb", map_size=1 << 30, sync=False)

    def first():
        with opened() as env, env.begin() as transaction:
            value = transaction.get(b"key 77")
            return value and pickle.loads(value)["stock"]

    def fill(env):
        with env.begin(write=True) as transaction:
            for n in range(RECORDS):
                transaction.put(b"key %d" % n, pickle.dumps(record(n), pickle.HIGHEST_PROTOCOL))

    def look(env):
        with env.begin() as transaction:
            return sum(pickle.loads(transaction.get(key.encode()))["stock"] for key in wanted)

    def change(env):
        for number in range(CHANGES):
            with env.begin(write=True) as transaction:
                one = pickle.loads(transaction.get(b"key 77"))
                one["stock"] = number
                transaction.put(b"key 77", pickle.dumps(one, pickle.HIGHEST_PROTOCOL))

    if timed("start: open, one value", first) is None:
        with opened() as env:
            timed("fill", lambda: fill(env))
        return
    wanted = keys()
    with opened() as env:
        timed("a lookup", lambda: look(env), LOOKUPS)
        timed("a change, committed", lambda: change(env), CHANGES)


def with_memmap(folder):
    import numpy

    path = f"{folder}/compare.memmap"
    try:
        numbers = timed("start: open", lambda: numpy.memmap(path, numpy.float64, "r+"))
    except FileNotFoundError:
        numbers = numpy.memmap(path, numpy.float64, "w+", shape=NUMBERS)
        timed("fill", lambda: numbers.__setitem__(slice(None), numpy.arange(NUMBERS)))
        return
    timed("the first sum", numbers.sum)
    timed("another sum", numbers.sum)


def with_arrays():
    import numpy
    import spacejmp

    def sums():
        with space.read() as root:

            def look():
                numbers = timed("an array", lambda: numpy.asarray(root["numbers"]))
                timed("the first sum", numbers.sum)
                timed("another sum", numbers.sum)

            look()

    with timed("start: open", lambda: spacejmp.open("arrays")) as space:
        with space.read() as root:
            is_filled = "numbers" in root
        if is_filled:
            sums()
        else:
            with space.write() as root:
                numbers = numpy.arange(NUMBERS, dtype=numpy.float64)
                timed("fill", lambda: root.__setitem__("numbers", numbers))


if __name__ == "__main__":
    kinds = {
        "spacejmp": with_spacejmp, "arrays": with_arrays, "pickle": with_pickle, "shelve": with_shelve,
        "memmap": with_memmap, "lmdb": with_lmdb,
    }
    kinds[sys.argv[1]](*sys.argv[2:])
