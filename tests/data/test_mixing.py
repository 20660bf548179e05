"""Tests of `data.mixing`: every row once or in given shares, one set of columns, clear refusals."""

import pytest
from datasets import Dataset

from policy_patch.data import mix_preference_pairs
from policy_patch.errors import DataError

USER = {"role": "user", "content": "Hello"}


def pairs(name, count, **columns):
    rows = {"prompt": [f"{name} {index}" for index in range(count)], "chosen": ["a"] * count, "rejected": ["b"] * count}
    return Dataset.from_dict({**rows, **{column: [value] * count for column, value in columns.items()}})


def test_every_row_is_there_once_with_its_risk_in_an_order_of_the_seed():
    parts = {"toxicity": pairs("toxicity", 5), "gender_bias": pairs("gender_bias", 3)}
    mixed = mix_preference_pairs(parts)
    assert mixed.column_names == ["prompt", "chosen", "rejected", "risk"]
    assert sorted(mixed["prompt"]) == sorted(parts["toxicity"]["prompt"][:] + parts["gender_bias"]["prompt"][:])
    assert all(row["prompt"].startswith(row["risk"]) for row in mixed)
    assert mix_preference_pairs(parts).to_list() == mixed.to_list()
    assert mix_preference_pairs(parts, seed=1).to_list() != mixed.to_list()


def test_weights_are_shares_of_the_rows():
    parts = {"toxicity": pairs("toxicity", 400), "gender_bias": pairs("gender_bias", 400)}
    mixed = mix_preference_pairs(parts, weights={"gender_bias": 3, "toxicity": 1})
    assert set(mixed["prompt"]) == {*parts["toxicity"]["prompt"], *parts["gender_bias"]["prompt"]}, "all were taken"
    share = mixed["risk"][:].count("gender_bias") / len(mixed)
    assert 0.72 < share < 0.78
    short = mix_preference_pairs(parts, {"gender_bias": 3, "toxicity": 1}, stopping_strategy="first_exhausted")
    assert len(set(short["prompt"])) == len(short) < len(mixed), "no row comes twice"
    again = mix_preference_pairs(parts, weights={"gender_bias": 0.75, "toxicity": 0.25})
    assert again.to_list() == mixed.to_list(), "only the ratio matters"


def test_columns_that_not_all_have_go_and_answers_without_a_mark_are_finished():
    sampled = pairs("a", 2, chosen_finished=False, rejected_finished=None, chosen_score=0.1, risk="old", n=1)
    written = pairs("b", 1, n=2)
    mixed = mix_preference_pairs({"a": sampled, "b": written})
    rows = sorted(mixed.to_list(), key=lambda row: row["prompt"])
    assert [row["chosen_finished"] for row in rows] == [False, False, True]
    assert [row["rejected_finished"] for row in rows] == [True] * 3
    assert [row["n"] for row in rows] == [1, 1, 2]
    assert [row["risk"] for row in rows] == ["a", "a", "b"]
    assert "chosen_score" not in mixed.column_names
    scored = mix_preference_pairs({"a": sampled, "b": pairs("b", 1, chosen_score="high")})
    assert "chosen_score" not in scored.column_names, "of another type"


def test_messages_with_other_keys_are_mixed():
    one = Dataset.from_list([{"chosen": [USER, USER], "rejected": [USER]}])
    named = {"content": "Hi", "role": "user", "name": "Ann"}
    other = Dataset.from_list([{"chosen": [named], "rejected": [named]}])
    mixed = mix_preference_pairs({"one": one, "other": other}).to_list()
    assert {row["risk"]: row["chosen"] for row in mixed} == {"one": [{**USER, "name": None}] * 2, "other": [named]}


def test_a_single_risk_is_a_mixture_too():
    assert mix_preference_pairs({"toxicity": pairs("toxicity", 2)})["risk"][:] == ["toxicity"] * 2


@pytest.mark.parametrize(
    ("datasets", "options", "message"),
    [
        ({}, {}, "`datasets` is an empty dict; expected a mapping from risk to dataset"),
        ([pairs("a", 1)], {}, "`datasets` is a list; expected a mapping from risk to dataset"),
        ({"a": [1]}, {}, r"`datasets\['a'\]` is a list; expected a `datasets.Dataset` with rows"),
        ({"a": pairs("a", 1), "b": pairs("b", 0)}, {}, r"`datasets\['b'\]` is empty"),
        ({"a": pairs("a", 1)}, {"weights": {"b": 1}}, r"`weights` names \['b'\]; expected the risks of the data"),
        ({"a": pairs("a", 1)}, {"weights": {"a": 0}}, r"`weights\['a'\]=0`: expected a number above 0"),
        ({"a": pairs("a", 1)}, {"weights": {"a": float("nan")}}, r"`weights\['a'\]=nan`"),
        (
            {"a": pairs("a", 1), "b": pairs("b", 1).remove_columns("prompt")},
            {},
            r"cannot be mixed: 'a' has `prompt` \(text\), `chosen` \(text\), .*, 'b' has `chosen` \(text\), `r.* Conv",
        ),
        (
            {"a": pairs("a", 1), "b": Dataset.from_list([{"prompt": [USER], "chosen": [USER], "rejected": [USER]}])},
            {},
            r"'b' has `prompt` \(messages\), `chosen` \(messages\), `rejected` \(messages\)",
        ),
        ({"a": pairs("a", 1).remove_columns(["chosen", "rejected"])}, {}, r"`datasets\['a'\]` has the columns \['pr"),
        (
            {
                "a": Dataset.from_list([{"prompt": [USER], "completion": [{**USER, "name": "x"}]}]),
                "b": Dataset.from_list([{"prompt": [USER], "completion": [{**USER, "name": 1}]}]),
            },
            {},
            r"`name` is Value\('string'\) in some, Value\('int64'\) in others",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_is_refused(datasets, options, message):
    with pytest.raises(DataError, match=message):
        mix_preference_pairs(datasets, **options)
