"""A column of Arrow's in a space: stored as a buffer, and used where it lies (pip install pyarrow).

    spacejmp run --root / --dir . python3 arrow.py fill
    spacejmp run --root / --dir . python3 arrow.py sum
    spacejmp run --root / --dir . python3 arrow.py late
"""

import sys

import pyarrow
import pyarrow.compute
import spacejmp

COUNT = 8_000_000


def column(root):
    values = pyarrow.py_buffer(root["values"])
    return pyarrow.Array.from_buffers(pyarrow.int64(), COUNT, [None, values]), values.address


def fill(space):
    with space.write() as root:
        numbers = pyarrow.array(range(COUNT), pyarrow.int64())
        root["values"] = memoryview(numbers.buffers()[1])


def look(space):
    with space.read() as root:
        array, address = column(root)
        print(pyarrow.compute.sum(array), "at", hex(address))
        # Before the visit ends.
        del array


def late(space):
    """Keeps a column for longer than its visit."""
    try:
        with space.read() as root:
            array, _ = column(root)
    except BufferError as error:
        print(error)
        print("and it is still good:", array[COUNT - 1])


with spacejmp.open("arrow") as space:
    {"fill": fill, "sum": look, "late": late}[sys.argv[1]](space)
