"""Random numbers are addressed by what they are for."""

import subprocess
import sys

import numpy as np
import pytest

from sigma.shared.seeding import generator, normal, seed_from


def test_an_address_gives_the_same_numbers_whenever_it_is_asked():
    first = normal((3, 2), 0, "base", 5)
    normal((100,), 0, "other")
    np.testing.assert_array_equal(normal((3, 2), 0, "base", 5), first)
    assert first.dtype == np.float32 and first.shape == (3, 2)


def test_every_key_its_type_and_their_order_count():
    addresses = [(0,), (1,), ("0",), (0, 1), (1, 0), (0, "1"), ("01",), ("0", "1"), (0, 1, 0), ()]
    assert len({seed_from(*address) for address in addresses}) == len(addresses)


def test_a_whole_number_of_any_type_is_the_same_key_and_nothing_else_is_one():
    assert seed_from(np.int64(7), "a") == seed_from(7, "a") == seed_from(np.uint8(7), "a")
    with pytest.raises(TypeError):
        seed_from(7.0, "a")


def test_seeds_are_equal_in_every_process():
    code = "from sigma.shared.seeding import seed_from; print(seed_from(3, 'split'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == seed_from(3, "split") and 0 <= seed_from(3, "split") < 2**64


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_standard_normal(seed):
    numbers = normal((20000,), seed)
    assert abs(numbers.mean()) < 0.03 and abs(numbers.std() - 1) < 0.03
    assert abs(np.corrcoef(numbers, normal((20000,), seed, "b"))[0, 1]) < 0.03


def test_each_call_starts_anew():
    assert generator(1, "a").integers(1 << 30) == generator(1, "a").integers(1 << 30)
