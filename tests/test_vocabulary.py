"""A vocabulary numbers its symbols as FedJAX and TensorFlow Federated do."""

import pickle

import numpy as np

import equifed as eqf


def test_characters_of_shakespeare():
    vocabulary = eqf.data.Vocabulary.shakespeare()
    assert len(vocabulary.symbols) == len(set(vocabulary.symbols)) == 86
    assert vocabulary.size == 90
    assert (vocabulary.pad, vocabulary.bos, vocabulary.eos) == (0, 1, 2)
    assert vocabulary.special == (0, 1, 2, 89)
    # The first, the last two, and one that it has not. FedJAX's model takes the last
    # two for BOS and EOS, which they are not.
    np.testing.assert_array_equal(vocabulary.encode("d9\r\u00e9"), [3, 87, 88, 89])
    text = "To be,\nor not?"
    assert "".join(vocabulary.decode(vocabulary.encode(text))) == text
    assert vocabulary.encode(text).dtype == np.int32
    assert vocabulary.encode("").shape == (0,)


def test_words():
    vocabulary = eqf.data.Vocabulary(["to", "be"], num_oov=3)
    assert vocabulary.size == 8
    assert vocabulary.oov == (5, 6, 7)
    unknown = vocabulary.encode(["or", "not", "else", "or", "five"])
    assert set(unknown) <= {5, 6, 7}
    assert len(set(unknown)) > 1
    assert unknown[0] == unknown[3]  # in this process and any other
    np.testing.assert_array_equal(unknown, [7, 7, 6, 7, 5])
    assert vocabulary.decode([1, 3, 4, 7, 2, 0]) == [
        *("<bos>", "to", "be", "<oov>", "<eos>", "<pad>")
    ]


def test_a_vocabulary_is_a_value():
    one, same = (eqf.data.Vocabulary(("a", "b")) for _ in range(2))
    assert one == same == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(same)
    assert one != eqf.data.Vocabulary(("a", "b"), num_oov=2)
    assert repr(one) == "Vocabulary(2 symbols, 1 oov)"
