"""The seed of a request depends on all that makes it another one."""

from policy_patch.answers.seeds import request_seed


def test_each_of_the_four_makes_another_seed():
    facts = {(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1), (0, "\ud800", 0, 0)}
    seeds = {request_seed(*entry) for entry in facts}
    assert len(seeds) == len(facts)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_it_is_the_same_in_every_process():
    assert request_seed(0, "You are", 0, 0) == 1259500507
