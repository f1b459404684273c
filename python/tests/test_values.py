"""What can be stored comes back as it was, in this program and the next: `values.py fill`, `values.py look`."""

import array
import collections
import copy
import enum
import pickle
import sys
import unittest
from collections import abc

import spacejmp

VALUES = {
    "nothing": None,
    "yes": True,
    "no": False,
    "numbers": [0, -1, 2**62, -(2**63), 2**63, -(2**63) - 1, 10**100, -(10**100)],
    "floats": [0.0, -1.5, 1e300, float("inf")],
    "text": "Grüße, 世界 \U0001f600\0end",
    "empty": ["", b"", (), [], {}, set()],
    "bytes": bytes(range(256)) * 40,
    "tuple": (1, (2, (3, [4, {"five": 5}]))),
    "dict": {1: "int", "1": "str", b"1": "bytes", (1, "a"): "tuple", None: "none", 2.5: "float", 10**30: "large"},
    "set": {1, "a", b"b", (2, 3), None, 2.5},
    "deep": [[[[[[[["bottom"]]]]]]]],
}


def fill():
    with spacejmp.open("values") as space:
        with space.write("first values") as root:
            for key, value in VALUES.items():
                root[key] = value
        with space.read() as root:
            assert root.copy() == VALUES, root


def look():
    with spacejmp.open("values", read_only=True) as space:
        with space.read() as root:
            assert root.copy() == VALUES, root
            assert list(root) == list(VALUES), "dicts keep their order"
            found = root.copy()
    same = [(type(a), type(b)) for a, b in zip(found.values(), VALUES.values()) if type(a) is not type(b)]
    assert not same, same
    print("found all")


class Colour(enum.IntEnum):
    RED = 1


class Values(unittest.TestCase):
    def setUp(self):
        self.space = spacejmp.open(self.id().split(".")[-1])
        self.addCleanup(self.space.close)

    def test_what_cannot_be_stored_is_a_type_error_that_names_it_and_changes_nothing(self):
        class Own:
            pass

        for value, name in [
            (Own(), "Own"),
            (1j, "complex"),
            (frozenset({1}), "frozenset"),
            (Colour.RED, "Colour"),
            (collections.OrderedDict(), "collections.OrderedDict"),
            (len, "builtin_function_or_method"),
            (sys, "module"),
            (open, "builtin_function_or_method"),
            (object(), "object"),
        ]:
            with self.subTest(name=name), self.assertRaisesRegex(TypeError, name):
                with self.space.write() as root:
                    root["kept"] = 1
                    root["x"] = [1, {"a": (2, value)}]
        with self.space.write() as root:
            with self.assertRaises(TypeError):
                root["x"] = {"a": object()}
            self.assertNotIn("x", root)
            for key in ([], {}, object(), 1j):
                with self.assertRaises(TypeError):
                    root[key] = 1
            with self.assertRaises(ValueError):
                root[float("nan")] = 1
            with self.assertRaises(UnicodeEncodeError):
                root["x"] = "\ud800"
            itself = []
            itself.append(itself)
            with self.assertRaisesRegex(ValueError, "contains itself"):
                root["x"] = itself
            self.assertEqual(len(root), 0)

    def test_a_dict_is_what_a_dict_is(self):
        with self.space.write() as root:
            self.assertIsInstance(root, abc.MutableMapping)
            root.update({"a": 1, "b": [1]})
            self.assertEqual(root.get("c"), None)
            self.assertEqual(root.get("c", 7), 7)
            self.assertEqual(root.setdefault("b", []), [1])
            root.setdefault("d", []).append(1)
            self.assertEqual(root["d"], [1])
            root["d"] += [2, 3]
            self.assertEqual(root["d"], [1, 2, 3])
            self.assertEqual(list(root.items()), [("a", 1), ("b", [1]), ("d", [1, 2, 3])])
            self.assertEqual(list(root.keys()), ["a", "b", "d"])
            self.assertEqual(root.pop("b"), [1])
            self.assertEqual(root.pop("b", 5), 5)
            with self.assertRaises(KeyError) as caught:
                root.pop("b")
            self.assertEqual(caught.exception.args, ("b",))
            with self.assertRaises(KeyError):
                root["b"]
            with self.assertRaises(KeyError):
                del root["b"]
            self.assertEqual(root.popitem(), ("d", [1, 2, 3]))
            del root["a"]
            with self.assertRaises(KeyError):
                root.popitem()
            root["n"] = {True: "one"}
            root["n"][1.0] = "still one"
            self.assertEqual(root["n"], {1: "still one"})
            self.assertIn(1, root["n"])
            with self.assertRaises(TypeError):
                hash(root)
            with self.assertRaises(TypeError):
                pickle.dumps(root)
            self.assertEqual(copy.deepcopy(root), {"n": {1: "still one"}})
            self.assertEqual(repr(root), "Dict({'n': {True: 'still one'}})")
            root.clear()
            self.assertFalse(root)

    def test_a_list_is_what_a_list_is(self):
        with self.space.write() as root:
            root["l"] = []
            stored, model = root["l"], []
            self.assertIsInstance(stored, abc.MutableSequence)
            for step in range(300):
                stored.insert(step % 7 - 3, step)
                model.insert(step % 7 - 3, step)
            stored.extend(["a", [1], {"x": 1}])
            model.extend(["a", [1], {"x": 1}])
            self.assertEqual(stored, model)
            self.assertEqual(stored[5:200:3], model[5:200:3])
            self.assertEqual(stored[::-1], model[::-1])
            del stored[10:100:2], model[10:100:2]
            del stored[-1], model[-1]
            stored.reverse(), model.reverse()
            self.assertEqual(stored.pop(), model.pop())
            self.assertEqual(stored.pop(0), model.pop(0))
            self.assertEqual(stored.index(7), model.index(7))
            stored.remove(7), model.remove(7)
            stored[3] = model[3] = {"deep": [1]}
            self.assertEqual(stored, model)
            self.assertIn({"deep": [1]}, stored)
            for index in (len(model), -len(model) - 1, 2**70):
                with self.assertRaises((IndexError, TypeError)):
                    stored[index]
            with self.assertRaises(TypeError):
                stored["a"]
            stored.clear()
            with self.assertRaises(IndexError):
                stored.pop()

    def test_a_set_is_what_a_set_is(self):
        with self.space.write() as root:
            root["s"] = {1, 2}
            stored = root["s"]
            self.assertIsInstance(stored, abc.MutableSet)
            stored.add(3), stored.add(3), stored.add(2.0)
            stored.discard(1), stored.discard(9)
            with self.assertRaises(KeyError):
                stored.remove(9)
            self.assertEqual(stored, {2, 3})
            self.assertEqual(stored & {3, 4}, {3})
            self.assertEqual(stored | {4}, {2, 3, 4})
            stored |= {5}
            self.assertEqual(root["s"].copy(), {2, 3, 5})
            self.assertLess(stored, {2, 3, 5, 6})

    def test_many_keys_come_and_go_as_in_a_dict(self):
        model = {}
        with self.space.write() as root:
            for step in range(6000):
                key = step * 7919 % 1000
                if step % 3 == 2:
                    self.assertEqual(root.pop(key, None), model.pop(key, None))
                else:
                    root[key] = model[key] = (step, str(step))
            self.assertEqual(list(root.items()), list(model.items()))
        with self.space.read() as root:
            self.assertEqual(root, model)

    def test_a_dict_that_changes_size_while_it_is_iterated_is_an_error(self):
        with self.space.write() as root:
            root.update(dict.fromkeys(range(10), 0))
            with self.assertRaisesRegex(RuntimeError, "changed size"):
                for key in root:
                    root[key + 100] = 1
            with self.assertRaisesRegex(RuntimeError, "changed size"):
                for key in root:
                    del root[key]
            for key in root:
                root[key] = 2
            root["s"] = set(range(10))
            with self.assertRaisesRegex(RuntimeError, "changed size"):
                for member in root["s"]:
                    root["s"].add(member + 100)

    def test_arrays_come_back_with_their_shape(self):
        grid = memoryview(array.array("d", range(12))).cast("B").cast("d", (3, 4))
        with self.space.write() as root:
            root["grid"] = grid
            root["bytes"] = bytearray(b"abc")
            root["short"] = array.array("h", [1, -2, 3])
            root["large"] = array.array("q", range(100_000))
            root["none"] = array.array("f")
            with self.assertRaisesRegex(TypeError, "format `c`"):
                root["x"] = memoryview(b"abc").cast("c")
        with self.space.read() as root:
            self.assertEqual(root["grid"].shape, (3, 4))
            self.assertEqual((root["grid"].format, root["grid"].itemsize, len(root["grid"])), ("d", 8, 3))
            self.assertEqual(root["grid"].copy().tolist(), grid.tolist())
            self.assertEqual(bytes(root["bytes"].copy()), b"abc")
            kept = root["short"].copy()
            self.assertEqual(root["none"].nbytes, 0)
            with memoryview(root["large"]) as view:
                self.assertTrue(view.readonly)
                self.assertEqual(view[99_999], 99_999)
                self.assertEqual(sum(view), sum(range(100_000)))
            with memoryview(root["grid"]) as view:
                self.assertEqual(view[2, 1], 9.0)
        self.assertEqual(kept.tolist(), [1, -2, 3])

    def test_arrays_are_changed_in_place(self):
        with self.space.write() as root:
            root["a"] = array.array("q", range(10_000))
        version = self.space.version()
        with self.space.write() as root:
            with memoryview(root["a"]) as view, memoryview(root["a"]) as other:
                view[5] = -5
                self.assertEqual(other[5], -5)
            self.assertEqual(root["a"].copy()[5], -5)
        self.assertGreater(self.space.version(), version)
        with self.assertRaises(ZeroDivisionError), self.space.write() as root:
            with memoryview(root["a"]) as view:
                view[6] = -6
            1 / 0
        with self.space.read() as root, memoryview(root["a"]) as view:
            self.assertEqual(list(view[4:8]), [4, -5, 6, 7])
        version = self.space.version()
        with self.space.write() as root, memoryview(root["a"]) as view:
            view[0]
        self.assertEqual(self.space.version(), version, "nothing was changed")

    def test_exceptions_take_everything_back(self):
        with self.space.write() as root:
            root["a"] = [1]
        version = self.space.version()
        with self.assertRaises(ZeroDivisionError), self.space.write() as root:
            root["a"].append(2)
            root["b"] = 1
            del root["a"]
            1 / 0
        with self.space.write() as root:
            root["a"].append(3)
            raise spacejmp.Abort
        with self.space.read() as root:
            self.assertEqual(root, {"a": [1]})
        self.assertEqual(self.space.version(), version)

    def test_versions_and_tags(self):
        seen = []
        for number in range(3):
            with self.space.write(f"change {number}") as root:
                root["n"] = number
            seen.append(self.space.version())
            self.space.tag(f"at-{number}")
        self.assertEqual(seen, sorted(set(seen)))
        self.assertEqual(sorted(self.space.tags()), ["at-0", "at-1", "at-2"])
        with self.space.at("at-1") as old, old.read() as root:
            self.assertEqual(root["n"], 1)
            with self.assertRaises(spacejmp.ReadOnlyError):
                old.write()
        with self.space.at(seen[0]) as old, old.read() as root:
            self.assertEqual(root["n"], 0)
        with self.assertRaises(spacejmp.NotFoundError), self.space.at("never"):
            pass
        with self.assertRaises(spacejmp.StoreError) as caught:
            self.space.tag("at-1")
        self.assertEqual(caught.exception.errno, 17)
        self.assertEqual(self.space.wait_newer(0), seen[-1])
        self.assertIsNone(self.space.wait_newer(seen[-1], timeout=0.01))
        self.assertEqual(self.space.sync(), seen[-1])

    def test_wrong_uses_of_open_are_exceptions(self):
        for name in ("", "a/b", "..", "x" * 300):
            with self.subTest(name=name), self.assertRaises(spacejmp.StoreError):
                spacejmp.open(name)
        with self.assertRaises(spacejmp.NotFoundError) as caught:
            spacejmp.open("never", create=False)
        self.assertIsInstance(caught.exception, FileNotFoundError)
        self.assertIn("never", str(caught.exception))
        with self.assertRaises(ValueError):
            spacejmp.open("x", durability="now")
        with spacejmp.open(self.space.name, read_only=True) as space:
            with self.assertRaises(spacejmp.ReadOnlyError):
                space.write()
            with space.read() as root, self.assertRaises(spacejmp.ReadOnlyError):
                root["x"] = 1


if __name__ == "__main__":
    if sys.argv[1:] == ["fill"]:
        fill()
    elif sys.argv[1:] == ["look"]:
        look()
    else:
        unittest.main()
