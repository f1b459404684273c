"""NumPy's arrays in a space, its threads among those that read them."""

import sys
import threading

import numpy

import spacejmp


def read(space, total):
    """A function, so that no array is alive at the end of the visit."""
    with space.read() as root:

        def look():
            big = numpy.asarray(root["big"])
            assert not big.flags.owndata and not big.flags.writeable
            assert big.sum() == total
            # Threads of the library that multiplies.
            product = numpy.asarray(root["left"]) @ numpy.asarray(root["right"])
            assert numpy.allclose(product, 300.0)
            sums = []
            parts = numpy.array_split(big, 8)
            threads = [threading.Thread(target=lambda part=part: sums.append(int(part.sum()))) for part in parts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sum(sums) == total

        look()


def main():
    rows = numpy.arange(5_000_000).reshape(5000, 1000)
    with spacejmp.open("numbers") as space:
        with space.write() as root:
            root["big"] = rows
            root["turned"] = rows[:3, :4].T
            root["left"] = numpy.ones((300, 300))
            root["right"] = numpy.ones((300, 300))
            root["complex"] = numpy.array([1 + 2j])
            root["flags"] = numpy.array([True, False])
            root["scalar"] = numpy.array(7)
            for wrong in (numpy.array(["a"]), numpy.array([object()]), numpy.array([1], ">i4"), numpy.float64(1)):
                try:
                    root["x"] = wrong
                    raise AssertionError(wrong.dtype)
                except TypeError:
                    pass
        read(space, int(rows.sum()))
        with space.write() as root:
            part = numpy.asarray(root["big"])
            part[10] = 0
            part += 1
            del part
        read(space, int(rows.sum()) - int(rows[10].sum()) + rows.size)
        with space.read() as root:
            assert numpy.array_equal(numpy.array(root["turned"]), rows[:3, :4].T)
            assert numpy.array(root["complex"])[0] == 1 + 2j
            assert numpy.array(root["flags"]).tolist() == [True, False]
            assert numpy.array(root["scalar"]) == 7
            try:
                numpy.asarray(root["big"])[0, 0] = 1
                raise AssertionError("written")
            except ValueError:
                pass
            kept = root["big"]
        try:
            numpy.asarray(kept)
            raise AssertionError("after the end")
        except spacejmp.VisitError:
            pass
    print("numbers are right", file=sys.stdout)


main()
