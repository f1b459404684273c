"""Uses that are mistakes: each is an exception, and the interpreter goes on."""

import array
import gc
import os
import subprocess
import sys
import threading
import time
import unittest

import spacejmp


def in_thread(work):
    """What `work` returns, or the exception that it raises, in a thread of its own."""
    results = []

    def run():
        try:
            results.append(work())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


class Misuse(unittest.TestCase):
    def setUp(self):
        self.space = spacejmp.open(self.id().split(".")[-1])
        with self.space.write() as root:
            root["list"] = [1, 2, 3]
            root["dict"] = {"a": {"b": 1}}
            root["set"] = {1, 2}
            root["array"] = array.array("q", range(1000))

    def fill_large(self):
        """An array that is large enough for its buffers to be the space's own memory."""
        with self.space.write() as root:
            root["large"] = array.array("q", range(1000)) * 4500

    def test_what_a_visit_has_given_out_is_of_no_use_after_it(self):
        with self.space.read() as root:
            kept = [root, root["list"], root["dict"], root["set"], root["array"], iter(root), root.items()]
        uses = [
            lambda: root["list"], lambda: len(root), lambda: list(root), lambda: "x" in root, lambda: root == {},
            lambda: kept[1][0], lambda: kept[1].append(1), lambda: list(kept[1]), lambda: kept[2]["a"],
            lambda: kept[2].copy(), lambda: 1 in kept[3], lambda: kept[3].add(1), lambda: memoryview(kept[4]),
            lambda: kept[4].copy(), lambda: next(kept[5]), lambda: list(kept[6]),
        ]
        for number, use in enumerate(uses):
            with self.subTest(number=number), self.assertRaises(spacejmp.VisitError):
                use()
        for thing in kept[:4]:
            self.assertIn("over", repr(thing))
        # In the next visit, too.
        with self.space.write() as again:
            for number, use in enumerate(uses):
                with self.subTest(number=number), self.assertRaises(spacejmp.VisitError):
                    use()
            with self.assertRaises(spacejmp.VisitError):
                again["x"] = kept[1]

    def test_what_was_removed_is_of_no_use(self):
        with self.space.write() as root:
            removed, inner = root["dict"], root["dict"]["a"]
            del root["dict"]
            # In the place of the old one, perhaps.
            for number in range(100):
                root[number] = {"x": number}
            for use in (lambda: removed["a"], lambda: inner["b"], lambda: inner.update(b=2), lambda: list(removed)):
                with self.assertRaisesRegex(spacejmp.VisitError, "removed"):
                    use()
            items = root["list"]
            root["list"] = [4]
            with self.assertRaisesRegex(spacejmp.VisitError, "removed"):
                items.append(5)
            self.assertEqual(root["list"], [4])
            data = root["array"]
            root["array"] = array.array("q", [1])
            with self.assertRaisesRegex(spacejmp.VisitError, "removed"):
                memoryview(data)

    def test_a_visit_in_the_wrong_state_is_an_exception(self):
        visit = self.space.read()
        with visit as root:
            with self.assertRaisesRegex(spacejmp.VisitError, "goes on"):
                visit.__enter__()
            self.assertEqual(len(root), 4)
        with self.assertRaisesRegex(spacejmp.VisitError, "has ended"):
            visit.__enter__()
        with self.assertRaises(spacejmp.VisitError):
            visit.__exit__(None, None, None)
        with self.assertRaises(spacejmp.VisitError):
            self.space.write().__exit__(None, None, None)
        outer, inner = self.space.read(), self.space.read()
        root = outer.__enter__()
        inner.__enter__()
        with self.assertRaises(spacejmp.VisitError):
            outer.__exit__(None, None, None)
        with self.assertRaisesRegex(spacejmp.VisitError, "waits for the visit in it"):
            root["list"]
        inner.__exit__(None, None, None)
        self.assertEqual(root["list"], [1, 2, 3])
        with self.assertRaises(spacejmp.StoreError) as caught:
            self.space.close()
        self.assertEqual(caught.exception.errno, 16)
        outer.__exit__(None, None, None)
        self.space.close()
        with self.assertRaisesRegex(spacejmp.VisitError, "closed"):
            with self.space.read():
                pass

    def test_visits_nest(self):
        with spacejmp.open("other") as other, self.space.write() as root:
            root["before"] = 1
            with other.write() as inner:
                inner["x"] = [1]
                with self.assertRaises(spacejmp.VisitError):
                    inner["y"] = root["list"]
            root["after"] = 2
            with other.read() as inner:
                kept = inner["x"].copy()
            root["kept"] = kept
        with self.space.read() as root:
            self.assertEqual([root["before"], root["after"], root["kept"]], [1, 2, [1]])
        # To write in a visit to write the same: not for ever.
        with self.space.write() as root, self.assertRaises(spacejmp.StoreError) as caught:
            with self.space.write():
                pass
        self.assertEqual(caught.exception.errno, 35)

    def test_a_visit_that_nothing_refers_to_any_more_is_left_without_its_changes(self):
        def halfway():
            with self.space.write() as root:
                root["half"] = 1
                yield

        for _ in halfway():
            break
        gc.collect()
        visit = self.space.write()
        visit.__enter__()["half"] = 2
        del visit
        gc.collect()
        with self.space.read() as root:
            self.assertNotIn("half", root)
        self.space.close()

    def test_a_buffer_that_is_alive_at_the_end_is_an_error_and_stays_good(self):
        self.fill_large()
        with self.assertRaisesRegex(BufferError, "2 arrays or buffers"):
            with self.space.read() as root:
                small, view = memoryview(root["array"]), memoryview(root["large"])
                self.assertEqual((small[999], view[999]), (999, 999))
        self.assertEqual((small[999], view[-1]), (999, 999), "a thread that is at home again")
        part = view[10:20]
        self.assertEqual(sum(view[:100_000]), 100 * sum(range(1000)))
        with self.assertRaises(BufferError), self.space.write():
            pass
        # To read one can: the version that the buffer shows.
        with self.space.read() as root:
            self.assertEqual(len(root["list"]), 3)
        with self.assertRaises(BufferError), self.space.at(self.space.version()) as old, old.read():
            pass
        self.assertEqual(view[5], 5)
        self.assertEqual(os.waitpid(self.child(), 0)[1], 0)
        view.release()
        self.assertEqual(part[0], 10)
        del part
        gc.collect()
        # The small one is a copy, which is in nobody's way.
        self.assertEqual(small[999], 999)
        with self.space.write() as root:
            root["list"].append(4)
        with self.space.read() as root:
            self.assertEqual(len(root["list"]), 4)

    def child(self):
        child = os.fork()
        if child == 0:
            os._exit(0)
        return child

    def test_a_buffer_of_a_change_is_an_error_and_the_change_is_taken_back(self):
        with self.assertRaisesRegex(BufferError, "taken back"):
            with self.space.write() as root:
                root["x"] = 1
                view = memoryview(root["array"])
                view[0] = 7
        view[1] = 8
        self.assertEqual(view[:2].tolist(), [7, 8])
        del view
        with self.space.read() as root:
            self.assertNotIn("x", root)
            self.assertEqual(root["array"].copy()[:2].tolist(), [0, 1])

    def test_a_buffer_that_is_written_in_a_visit_to_read_is_an_error(self):
        with self.space.read() as root, memoryview(root["array"]) as view:
            with self.assertRaises(TypeError):
                view[0] = 1
            for reads in (lambda: sys.stdin.buffer.readinto(view), lambda: os.readv(0, [view])):
                with self.assertRaises((TypeError, BufferError)):
                    reads()

    def test_an_array_that_is_removed_below_its_buffer_stays_readable(self):
        with self.space.write() as root:
            with memoryview(root["array"]) as view:
                del root["array"]
                root["other"] = array.array("q", [7] * 1000)
                view[0] = 99
                self.assertEqual(view[999], 999)
        with self.space.read() as root:
            self.assertEqual(root["other"].copy()[0], 7)

    def test_other_threads_get_an_exception_for_objects_and_the_bytes_of_buffers(self):
        self.fill_large()
        self.space.tag("kept")
        with self.space.read() as root:
            stored = root["list"]
            for use in (lambda: root["list"], lambda: stored[0], lambda: memoryview(root["array"])):
                self.assertIsInstance(in_thread(use), spacejmp.VisitError)
            self.assertEqual(len(stored), 3)
        for space in (self.space, self.space.at("kept")):
            for name in ("array", "large"):
                with self.subTest(space=space, name=name), space.read() as root, memoryview(root[name]) as view:
                    self.assertEqual(in_thread(lambda: sum(view[:1000])), sum(range(1000)))
                    self.assertEqual(in_thread(lambda: bytes(view[:1000])), bytes(array.array("q", range(1000))))
                    look = lambda: (view[1], self.look_at_list(space), view[2])
                    self.assertEqual(in_thread(look), (1, 3, 2))
                    started = in_thread(lambda: (view[-1], subprocess.run(["true"]).returncode))
                    self.assertTrue(started == (999, 0) or isinstance(started, OSError), started)
        with self.space.write() as root:
            with memoryview(root["array"]) as view:
                in_thread(lambda: view.__setitem__(3, 33))
            self.assertIsInstance(in_thread(lambda: root.update(x=1)), spacejmp.VisitError)
        with self.space.read() as root:
            self.assertEqual(root["array"].copy()[3], 33)

    def look_at_list(self, space):
        with space.read() as root:
            return len(root["list"])

    def test_a_space_is_not_changed_as_long_as_a_buffer_shows_its_memory(self):
        self.fill_large()
        with self.space.read() as root:
            with memoryview(root["large"]) as view:
                self.assertEqual(in_thread(lambda: sum(view[:1000])), sum(range(1000)))
                self.assertIsInstance(in_thread(self.change), BufferError)
        self.assertIsNone(in_thread(self.change))
        with self.space.read() as root, memoryview(root["large"]) as view:
            self.assertEqual(in_thread(lambda: view[0]), 77)

    def change(self):
        with self.space.write() as root:
            root["large"] = array.array("q", [77]) * 4_500_000

    def test_threads_that_read_and_write_at_once(self):
        failures = []

        def read():
            try:
                for _ in range(30):
                    with self.space.read() as root:
                        pair = (root["dict"].copy(), root.get("pair", 0))
                        time.sleep(0)
                        if pair != (root["dict"].copy(), root.get("pair", 0)):
                            failures.append("it moved")
            except BaseException as error:
                failures.append(error)

        def write(number):
            try:
                for step in range(10):
                    with self.space.write() as root:
                        root["pair"] = root.get("pair", 0) + 1
                        root[f"{number}-{step}"] = "x" * 1000
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        threads += [threading.Thread(target=write, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        with self.space.read() as root:
            self.assertEqual(root["pair"], 30)

    def test_a_thread_that_ends_inside_takes_its_changes_with_it(self):
        kept = []

        def end():
            visit = self.space.write()
            visit.__enter__()["half"] = 1
            kept.append(visit)

        in_thread(end)
        with self.space.write() as root:
            self.assertNotIn("half", root)
        with self.assertRaises(spacejmp.VisitError):
            kept[0].__exit__(None, None, None)

    def test_fork_is_refused_inside_and_works_outside(self):
        with self.space.read(), self.assertRaises(OSError) as caught:
            os.fork()
        self.assertEqual(caught.exception.errno, 16)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with self.space.write() as root:
                    root["list"].append("child")
                    status = 0 if len(root["list"]) == 4 else 2
            finally:
                os._exit(status)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        with self.space.read() as root:
            self.assertEqual(root["list"], [1, 2, 3, "child"])

    def test_destructors_that_come_between_are_exceptions(self):
        outcomes = []

        class Nosy:
            def __init__(self, root):
                self.root, self.itself = root, self

            def __del__(self):
                try:
                    self.root["nosy"] = 1
                    outcomes.append("done")
                except BaseException as error:
                    outcomes.append(type(error))

        with self.space.write() as root:
            root["many"] = [[number] for number in range(3000)]
            gc.set_threshold(1)
            try:
                for _ in range(20):
                    Nosy(root)
                    root["many"].copy()
            finally:
                gc.set_threshold(700)
        self.assertTrue(set(outcomes) <= {"done", spacejmp.VisitError}, outcomes)
        self.assertIn(spacejmp.VisitError, outcomes, "none came between")

    def test_ctrl_c_ends_waiting_for_the_lock(self):
        import signal

        inside, done = threading.Event(), threading.Event()

        def hold():
            with self.space.write():
                inside.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()
        timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with self.assertRaises(KeyboardInterrupt), self.space.write():
            pass
        done.set()
        thread.join()
        with self.space.write() as root:
            root["after"] = 1

    def test_deep_chains_are_made_and_freed(self):
        with self.space.write() as root:
            here = root
            for _ in range(3000):
                here["next"] = {}
                here = here["next"]
            here["end"] = 1
            with self.assertRaisesRegex(ValueError, "nested more than"):
                root.copy()
            del root["next"]
            self.assertNotIn("next", root)


if __name__ == "__main__":
    unittest.main()
