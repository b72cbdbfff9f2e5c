"""The installed module, asked with the built-in model and compared with the installed program."""

import gc
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import unittest
import weakref

import modelve

PROGRAM = os.environ.get("MODELVE_PROGRAM") or os.path.join(sysconfig.get_path("scripts"), "modelve")
BAT = "It was a fine morning for cricket. The ball hit the bat, and"
CAVE = "It was night in the cave. The ball hit the bat, and"
# Where weights are unpacked decides how sums are rounded.
model = modelve.load("tiny", weights="mapped")


def said(*words):
    """What the program prints as JSON: one object, or a list of several lines."""
    if "-m" in words and words[0] != "vocab":
        words = [*words, "--weights", "mapped"]
    run = subprocess.run([PROGRAM, *words, "--json"], capture_output=True, text=True, check=True)
    try:
        return json.loads(run.stdout)
    except json.JSONDecodeError:
        return [json.loads(line) for line in run.stdout.splitlines()]


class Same(unittest.TestCase):
    """The module's numbers are the program's."""

    def test_next(self):
        one = model.next(BAT, top=7, candidates=["it flew", "boundary"])
        told = said("next", "-m", "tiny", BAT, "-n", "7", "-c", "it flew,boundary")
        self.assertEqual(one.to_dict(), told)
        self.assertEqual([choice.id for choice in one.top], [choice["id"] for choice in told["top"]])
        two = model.next([BAT, CAVE])
        self.assertEqual([next.to_dict() for next in two], said("next", "-m", "tiny", BAT, CAVE))
        tree = model.next(BAT, then=[" the"], tree=(2, 2)).to_dict()
        self.assertEqual(tree, said("next", "-m", "tiny", BAT, "--then", " the", "--tree", "2x2"))

    def test_score(self):
        text = "The ball hit the bat, and it flew to the boundary."
        score = model.score(text)
        self.assertEqual(score.to_dict(), said("score", "-m", "tiny", text))
        self.assertIsNone(score.tokens[0].logprob)

    def test_complete(self):
        told = said("complete", "-m", "tiny", "Today is", "India is a", "-n", "12", "--top", "2")
        # What was computed before decides which cells of the cache are free, and so how sums are
        # rounded: the program has computed nothing before.
        fresh = modelve.load("tiny", weights="mapped")
        found = fresh.complete(["Today is", "India is a"], max_tokens=12, details=True, top=2)
        for one, told in zip(found, told):
            self.assertEqual(one.text, told["text"])
            self.assertEqual(one.to_dict()["usage"], told["usage"])
            self.assertEqual([t.id for t in one.tokens], [t["id"] for t in told["tokens"]])
            for token, other in zip(one.tokens, told["tokens"]):
                self.assertAlmostEqual(token.logprob, other["logprob"], places=5)
        question = "What is the capital of France?"
        talk = model.complete(chat=[{"role": "user", "content": question}])
        self.assertEqual(talk, said("complete", "-m", "tiny", "--chat", question)["text"])
        self.assertEqual(talk, model.complete(question, chat=True))

    def test_lens(self):
        lens = model.lens(BAT, top=3)
        told = said("lens", "-m", "tiny", BAT, "-n", "3")
        self.assertEqual(lens.to_dict(), told)
        grid = memoryview(lens.kl_to_final)
        self.assertEqual(grid.shape, (told["n_layers"], len(told["ids"])))
        for cell in told["cells"]:
            there = grid[cell["layer"], cell["position"]]
            self.assertAlmostEqual(there, cell["kl_to_final"], places=4)

    def test_attention(self):
        attention = model.attention(BAT, layer=1)
        told = said("attention", "-m", "tiny", BAT, "--layer", "1")
        self.assertEqual(attention.to_dict(), told)
        weights = memoryview(attention.weights)
        self.assertEqual(weights.shape, (len(told["heads"]), len(told["ids"]), len(told["ids"])))
        for h, head in enumerate(told["heads"]):
            for q, row in enumerate(head["weights"]):
                for k, weight in enumerate(row):
                    self.assertAlmostEqual(weights[h, q, k], weight, places=5)
        self.assertEqual(weights[0, 0, 1], 0.0)

    def test_why_and_patch(self):
        self.assertEqual(model.why(BAT).to_dict(), said("why", "-m", "tiny", BAT))
        clean, corrupt = "The capital of France is", "The capital of Germany is"
        patch = model.patch(clean, corrupt)
        self.assertEqual(patch.to_dict(), said("patch", "-m", "tiny", clean, corrupt))
        recovered = memoryview(patch.recovered)
        # The last layer's state at the last position is the whole answer.
        self.assertAlmostEqual(recovered[len(patch.layers) - 1, len(patch.positions) - 1], 1.0, 4)

    def test_vocabulary(self):
        told = said("vocab", "-m", "tiny", "--encode", BAT)
        self.assertEqual(model.tokenize(BAT), told["ids"])
        self.assertEqual(model.detokenize(told["ids"]), said("vocab", "-m", "tiny", "--decode", *map(str, told["ids"]))["text"])
        self.assertEqual(model.detokenize(model.tokenize("é", bos=False), as_bytes=True).strip(), "é".encode())


class Files(unittest.TestCase):
    """What the program does with whole files."""

    def test_meta_and_vocabulary(self):
        self.assertEqual(model.meta["n_params"], said("meta", "tiny")["n_params"])
        told = said("vocab", "-m", "tiny", "300")[0]
        token = model.vocab[300]
        self.assertEqual((token.id, token.kind, token.text), (300, told["kind"], told["text"]))
        self.assertEqual(model.vocab[" the"].id, model.tokenize(" the", bos=False)[-1])
        self.assertEqual(len(model.vocab), said("vocab", "-m", "tiny")["size"])
        with self.assertRaises(IndexError):
            model.vocab[len(model.vocab)]

    def test_convert(self):
        with self.assertRaises(modelve.Error) as raised:
            modelve.convert("/no/such/folder")
        self.assertIn("/no/such/folder", str(raised.exception))
        with self.assertRaises(modelve.Error) as raised:
            modelve.convert(tempfile.gettempdir(), quant="Q9")
        self.assertIn("no type `Q9`", str(raised.exception))
        self.assertIn("--list-quants", raised.exception.hint)

    def test_compare(self):
        same = modelve.compare(["tiny", "tiny"], text="The ball hit the bat, and it flew.", greedy=0)
        self.assertLess(same.kl_max, 1e-9)
        self.assertEqual(same.same_top, 1.0)
        self.assertIn("Comparison(", repr(same))


class Completing(unittest.TestCase):
    def test_a_stream_is_the_text(self):
        whole = model.complete("Today is", max_tokens=16)
        self.assertIsInstance(whole, str)
        pieces = list(model.complete("Today is", max_tokens=16, stream=True))
        self.assertGreater(len(pieces), 3)
        self.assertEqual("".join(pieces), whole)

    def test_a_stream_that_is_left_leaves_the_model(self):
        stream = model.complete("Today is", max_tokens=400, ignore_eos=True, stream=True)
        next(stream)
        stream.close()
        self.assertEqual(list(stream), [])
        self.assertTrue(model.complete("Today is", max_tokens=2))

    def test_choices(self):
        again = [model.complete("Today is", temperature=0.9, seed=7, max_tokens=12) for _ in range(2)]
        self.assertEqual(*again)
        self.assertNotIn("day", model.complete("Today is", stop="day"))
        self.assertEqual(model.complete([]), [])
        answer = model.complete("A:", json_schema={"enum": ["yes", "no"]}, max_tokens=8)
        self.assertIn(json.loads(answer), ["yes", "no"])


class Refusing(unittest.TestCase):
    def refused(self, words, ask, *args, **named):
        with self.assertRaises(modelve.Error) as raised:
            ask(*args, **named)
        self.assertIn(words, str(raised.exception))
        return raised.exception

    def test_a_model_that_is_not_here(self):
        error = self.refused("no/such-model", modelve.load, "no/such-model-GGUF:Q4_K_M")
        self.assertIn("modelve get no/such-model", error.hint)
        self.assertIn("hint: " + error.hint, error.__notes__)
        error = self.refused("such.gguf", modelve.load, "such.gguf")
        with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
            file.write(b"not a model")
            file.flush()
            self.refused(file.name, modelve.load, file.name)

    def test_arguments(self):
        self.refused("--kv-type", modelve.load, "tiny", kv_type="f12")
        self.refused("layer 99", model.lens, BAT, layers=[99])
        self.refused("temperature", model.complete, "a", temperature=-1.0)
        self.refused("the prompt is empty", model.next, [[]])
        self.refused("content", model.complete, chat=[{"role": "user"}])
        self.refused("what=", model.patch, "a", "b", what="nothing")
        self.refused("", model.detokenize, [10**9])
        with self.assertRaises(TypeError):
            model.next(3.5)

    def test_a_text_that_is_too_long(self):
        self.refused("more than", model.next, "word " * 20_000)

    @unittest.skipUnless(hasattr(os, "fork"), "this system does not fork")
    def test_a_fork(self):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                model.next(BAT)
            except modelve.Error as error:
                code = 0 if "fork" in str(error) else 2
            finally:
                os._exit(code)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertTrue(model.next(BAT).top)


class Living(unittest.TestCase):
    def test_ctrl_c_stops_within_a_decode(self):
        def press():
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press).start()
        start = time.monotonic()
        with self.assertRaises(KeyboardInterrupt):
            while True:
                model.complete("Once", max_tokens=10_000, ignore_eos=True, temperature=1.0)
        self.assertLess(time.monotonic() - start, 5)
        self.assertEqual(model.complete("Today is", max_tokens=4), " a great day to")

    def test_threads_and_two_models(self):
        other = modelve.load("tiny", threads=1)
        expected = model.next(BAT).to_dict()["ids"]
        found = []

        def ask(which):
            for _ in range(5):
                found.append(which.next(BAT).ids)

        threads = [threading.Thread(target=ask, args=(which,)) for which in (model, other) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, [expected] * 30)

    def test_the_lock_of_the_interpreter_is_free_meanwhile(self):
        ticks = []
        thread = threading.Thread(target=lambda: model.score("The bat flew away. " * 60))
        thread.start()
        while thread.is_alive():
            ticks.append(time.monotonic())
            time.sleep(0.001)
        self.assertGreater(len(ticks), 3)

    def test_a_model_goes_when_nobody_has_it(self):
        gone = modelve.load("tiny")
        watch = weakref.ref(gone)
        stream = gone.complete("Once", max_tokens=10_000, ignore_eos=True, stream=True)
        next(stream)
        del gone
        gc.collect()
        self.assertIsNone(watch())
        del stream

    def test_a_process_that_ends_in_the_middle(self):
        code = (
            "import modelve; m = modelve.load('tiny');"
            "s = m.complete('Once', max_tokens=10000, ignore_eos=True, stream=True); next(s);"
            "t = modelve.load('tiny').trace('a b'); t.__enter__(); t.residual(0)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
        self.assertEqual((run.returncode, run.stderr), (0, b""))


class Looking(unittest.TestCase):
    def test_repr(self):
        next = model.next(BAT)
        self.assertIn("Next(prompt=", repr(next))
        self.assertIn("%", repr(next))
        self.assertIn("Model(", repr(model))
        self.assertIn("top", dir(next))
        with self.assertRaises(AttributeError):
            next.nothing

    def test_pandas(self):
        patch = model.patch("The capital of France is", "The capital of Germany is")
        try:
            import pandas
        except ImportError:
            with self.assertRaisesRegex(ImportError, "pip install pandas"):
                patch.to_pandas()
            return
        self.assertEqual(list(model.next(BAT).to_pandas()["id"]), [c.id for c in model.next(BAT).top])
        table = patch.to_pandas()
        self.assertEqual((list(table.index), list(table.columns)), (patch.layers, patch.positions))
        self.assertIsInstance(table, pandas.DataFrame)

    def test_pages(self):
        for result in [
            model.next(BAT),
            model.score(BAT),
            model.lens(BAT),
            model.attention(BAT),
            model.why(BAT),
            model.patch("The capital of France is", "The capital of Germany is"),
        ]:
            page = result._repr_html_()
            self.assertTrue(page.startswith("<iframe"), type(result))
            self.assertIn("modelve", page)
            self.assertIn("&quot;", page)


if __name__ == "__main__":
    unittest.main()
