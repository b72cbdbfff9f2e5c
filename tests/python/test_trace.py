"""Traces: activations that are read and written while a pass stands still."""

import unittest

import modelve

FRANCE = "The capital of France is"
GERMANY = "The capital of Germany is"
model = modelve.load("tiny")
LAYERS = model.lens(FRANCE, positions=[-1]).n_layers


def values(array):
    return memoryview(array).cast("B").cast("f").tolist()


def logits(prompt, change=lambda trace: None):
    with model.trace(prompt) as trace:
        change(trace)
    return trace.logits


def likeliest(array):
    last = array.tolist()[-1]
    return last.index(max(last))


class Traces(unittest.TestCase):
    def test_shapes(self):
        with model.trace(FRANCE) as trace:
            tokens = len(trace.ids)
            self.assertEqual("".join(trace.pieces).strip(), FRANCE)
            embedding = trace.embedding()
            width = embedding.shape[1]
            pattern = trace.pattern(0)
            self.assertEqual(pattern.shape[1:], (tokens, tokens))
            heads = trace.heads(0)
            self.assertEqual(heads.shape[0], tokens)
            for ask in (trace.attention, trace.mlp, trace.residual):
                self.assertEqual(ask(0).shape, (tokens, width))
            self.assertEqual(trace.residual(-1).shape, (tokens, width))
            self.assertEqual(trace.final_norm().shape, (tokens, width))
        self.assertEqual(trace.logits.shape[0], tokens)
        self.assertEqual(likeliest(trace.logits), model.next(FRANCE).top[0].id)
        # Each query's weights add up to 1, and none looks at what comes later.
        for head in pattern.tolist():
            for query, row in enumerate(head):
                self.assertAlmostEqual(sum(row), 1.0, places=4)
                self.assertEqual(sum(row[query + 1 :]), 0.0)

    def test_blocks_add_up(self):
        with model.trace(FRANCE) as trace:
            before = values(trace.embedding())
            added = [values(trace.attention(0)), values(trace.mlp(0))]
            after = values(trace.residual(0))
        for sums in zip(before, *added, after):
            self.assertAlmostEqual(sum(sums[:-1]), sums[-1], places=3)

    def test_what_is_not_changed_changes_nothing(self):
        def look(trace):
            for layer in range(LAYERS):
                trace.residual(layer)

        self.assertEqual(values(logits(FRANCE)), values(logits(FRANCE, look)))

    def test_a_state_of_another_prompt_gives_its_answer(self):
        for layer in range(LAYERS):
            with model.trace(FRANCE) as trace:
                state = trace.residual(layer)

            def put(trace):
                trace.residual(layer)[...] = state

            # Every position of one layer is replaced, so all after it is that of the other prompt.
            self.assertEqual(values(logits(GERMANY, put)), values(trace.logits))
        self.assertNotEqual(values(logits(GERMANY)), values(trace.logits))

    def test_the_same_place_is_the_same_array(self):
        with model.trace(FRANCE) as trace:
            self.assertIs(trace.residual(0), trace.residual(0))

    def test_refusals(self):
        with model.trace(FRANCE) as trace:
            trace.residual(1)
            with self.assertRaisesRegex(modelve.Error, "the pass is beyond the state after layer 0"):
                trace.residual(0)
            with self.assertRaisesRegex(modelve.Error, "layer 99 of"):
                trace.residual(99)
            with self.assertRaisesRegex(modelve.Error, "logits are there after"):
                trace.logits
            with self.assertRaisesRegex(modelve.Error, "a trace of this model is open"):
                model.next(FRANCE)
            trace.residual(2)
        with self.assertRaisesRegex(modelve.Error, "inside the `with` block"):
            trace.residual(3)
        with self.assertRaisesRegex(modelve.Error, "used once"):
            trace.__enter__()

    def test_an_exception_gives_the_pass_up(self):
        with self.assertRaises(ZeroDivisionError):
            with model.trace(FRANCE) as trace:
                trace.residual(0)
                1 / 0
        self.assertTrue(model.next(FRANCE).top)

    def test_numpy_shares_the_memory(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("numpy is not installed")
        with model.trace(FRANCE) as trace:
            state = trace.residual(1)
            seen = numpy.asarray(state)
            self.assertEqual((seen.dtype, seen.shape), (numpy.float32, state.shape))
            seen[:] = 0
            self.assertEqual(state[0, 0], 0.0)
            state[0, 0] = 2.5
            self.assertEqual(seen[0, 0], 2.5)
            self.assertEqual(numpy.shares_memory(seen, numpy.asarray(state)), True)


if __name__ == "__main__":
    unittest.main()
