"""Tests of `policy_patch.config`: what goes in comes out, and what makes no sense is refused with a hint."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policy_patch.config
from policy_patch.config import DEFAULT_INIT_TEXTS, FORMAT_VERSION, PolicyPatchConfig, config_hash, read_config
from policy_patch.errors import ConfigError

VERSIONS = ["0.1.0", "1.2.3", "10.20.30", "1.0.0-alpha.1", "1.0.0-0.3.7", "1.0.0--", "1.0.0+build.01", "2.0.0-rc.1+a-b"]
NO_VERSIONS = ["", "1", "1.0", "v1.0.0", "1.0.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "1.0.0-a..b", "1.0.0+", "1.0.0\n"]

LATER = ("conflicts", "order", "interference", "rebased_from")  # fields that are left out if they are None

MEASURED = {
    "stack": [{"name": "tox", "sha256": "self"}, {"name": "bias", "sha256": "ab" * 32}], "risk": "toxicity",
    "metric": "average_maximum_toxicity", "base": 0.8, "alone": 0.2, "stacked": 0.3, "verdict": "breaks",
    "source": "composition.json", "date": "2026-11-30",
}  # fmt: skip

texts = st.text(max_size=12)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(texts, json_values, max_size=3)
configs = st.builds(
    PolicyPatchConfig,
    num_virtual_tokens=st.integers(1, 10**6),
    placement=st.sampled_from(["after_bos", "before_bos"]),
    init=st.sampled_from(["text", "vocab", "random"]),
    init_text=st.none() | texts.filter(str.strip),
    init_seed=st.integers(0, 2**63 - 1),
    risk=st.none() | st.sampled_from(sorted(DEFAULT_INIT_TEXTS)) | texts,
    patch_version=st.sampled_from(VERSIONS),
    base_model_name_or_path=st.none() | texts,
    base_model_revision=st.none() | texts,
    base_fingerprint=st.none() | objects,
    hidden_size=st.none() | st.integers(1, 10**6),
    composed_from=st.none() | st.lists(objects, max_size=3),
    conflicts=st.none() | st.lists(st.sampled_from(["risk:a", "org/bias@<2.0.0", "bias"]), max_size=3),
    order=st.none() | st.dictionaries(st.sampled_from(["after", "before"]), st.just(["org/bias"]), max_size=2),
    interference=st.none() | st.just([MEASURED]),
    rebased_from=st.none() | objects,
    sha256=st.none() | texts,
    policy_patch_version=st.none() | texts,
)


@given(configs)
def test_a_config_goes_to_json_and_comes_back_the_same(config):
    text = config.to_json()
    assert PolicyPatchConfig.from_json(text) == config
    assert PolicyPatchConfig.from_json(text).to_json() == text
    written = [field.name for field in fields(PolicyPatchConfig)]
    assert list(json.loads(text)) == [
        name for name in written if name not in LATER or getattr(config, name) is not None
    ]


def test_the_documented_order_is_the_order_of_the_fields():
    documented = [line.strip().split(" ")[0] for line in PolicyPatchConfig.__doc__.splitlines() if " (`" in line[:60]]
    assert documented == [field.name for field in fields(PolicyPatchConfig)]


def test_defaults_are_the_paper_s_length_and_our_instruction_for_a_known_risk():
    config = PolicyPatchConfig(risk="toxicity")
    assert (config.num_virtual_tokens, config.placement, config.init) == (50, "after_bos", "text")
    assert config.init_text == DEFAULT_INIT_TEXTS["toxicity"]
    assert PolicyPatchConfig(risk="toxicity", init_text="Be kind.").init_text == "Be kind."
    assert PolicyPatchConfig(risk="toxicity", init="vocab").init_text is None
    assert PolicyPatchConfig(risk="spam").init_text is None


def test_an_unknown_key_is_refused_with_the_near_name():
    with pytest.raises(ConfigError, match=r"no key `num_virtual_token` \(given: 5\).* mean `num_virtual_tokens`\?"):
        PolicyPatchConfig(num_virtual_token=5)
    with pytest.raises(ConfigError, match=r"no key `zzz` .*Known keys: num_virtual_tokens, placement"):
        PolicyPatchConfig(zzz=1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_virtual_tokens", "3"),
        ("num_virtual_tokens", 3.0),
        ("num_virtual_tokens", None),
        ("num_virtual_tokens", True),
        ("placement", "behind"),
        ("init", "zeros"),
        ("init_text", 3),
        ("init_seed", "0"),
        ("risk", ["toxicity"]),
        ("patch_version", 1),
        ("base_fingerprint", "abc"),
        ("base_fingerprint", {1: "x"}),
        ("hidden_size", "32"),
        ("composed_from", [1]),
        ("composed_from", {}),
        ("sha256", b"00"),
        ("format_version", "1"),
    ],
)
def test_a_wrong_type_is_refused_and_the_field_named(key, value):
    with pytest.raises(ConfigError, match=key):
        PolicyPatchConfig(**{key: value})
    config = PolicyPatchConfig()
    with pytest.raises(ValueError, match=key):
        setattr(config, key, value)


def test_the_file_of_a_strict_dataclass_does_not_switch_its_checks_off():
    for path in Path(policy_patch.config.__file__).parent.rglob("*.py"):
        source = path.read_text()
        assert "from __future__ import annotations" not in source.replace("no `from __future__ import annotations`", "")


@pytest.mark.parametrize("number", [0, -1])
def test_a_patch_without_vectors_is_refused(number):
    with pytest.raises(ConfigError, match=f"`num_virtual_tokens={number}` must be a whole number of at least 1"):
        PolicyPatchConfig(num_virtual_tokens=number)
    with pytest.raises(ConfigError, match=f"`hidden_size={number}` must be at least 1"):
        PolicyPatchConfig(hidden_size=number)


def test_an_instruction_without_words_is_refused():
    with pytest.raises(ConfigError, match=r'`init_text` is empty. .* use `init="vocab"`'):
        PolicyPatchConfig(init_text=" \n")


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_torch_cannot_take_is_refused(seed):
    with pytest.raises(ConfigError, match=f"`init_seed={seed}` must be between 0 and"):
        PolicyPatchConfig(init_seed=seed)


@pytest.mark.parametrize("version", VERSIONS)
def test_semantic_versions_are_taken(version):
    assert PolicyPatchConfig(patch_version=version).patch_version == version


@pytest.mark.parametrize("version", [*NO_VERSIONS, "1٣.0.0", "1.0.0-ä"])
def test_other_versions_are_refused(version):
    with pytest.raises(ConfigError, match=r"is no semantic version\. Expected e\.g\. '1\.2\.0'"):
        PolicyPatchConfig(patch_version=version)


def test_checks_run_again_on_a_changed_copy():
    with pytest.raises(ConfigError, match="`num_virtual_tokens=0`"):
        replace(PolicyPatchConfig(), num_virtual_tokens=0)


@pytest.mark.parametrize("version", [0, 2])
def test_a_format_that_could_not_be_read_again_is_not_made(version):
    with pytest.raises(ConfigError, match=f"`format_version={version}` must be between 1 and {FORMAT_VERSION}"):
        PolicyPatchConfig(format_version=version)


def test_a_newer_format_says_which_version_is_needed():
    text = json.dumps({"format_version": 2, "policy_patch_version": "7.1.0", "a_new_key": 1})
    with pytest.raises(
        ConfigError,
        match=r"x.json has `format_version=2`; policy-patch \S+ reads up to 1. .* policy-patch 7.1.0: upgrade",
    ):
        PolicyPatchConfig.from_json(text, "x.json")


@pytest.mark.parametrize("version", ["1", None, True, 0, 1.0])
def test_a_format_version_that_is_no_whole_number_is_refused(version):
    with pytest.raises(ConfigError, match=r"has `format_version=.*`; expected a whole number from 1"):
        PolicyPatchConfig.from_json(json.dumps({"format_version": version}))


def test_json_cut_anywhere_is_refused():
    text = PolicyPatchConfig(risk="toxicity").to_json()
    for end in range(len(text) - 2):
        with pytest.raises(ConfigError, match=r"x.json is no valid JSON .* Was it truncated\?"):
            PolicyPatchConfig.from_json(text[:end], "x.json")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format_version": 1, "init_seed": ' + "1" * 5000 + "}"])
def test_json_made_to_break_the_parser_is_refused(text):
    with pytest.raises(ConfigError, match="is no valid JSON"):
        PolicyPatchConfig.from_json(text)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('"risk": "a", "risk": "b"', r"the key `risk` twice"),
        ('"base_fingerprint": {"format": 1, "format": 2}', r"in `base_fingerprint` the key `format` twice"),
        ('"base_fingerprint": {"a": NaN}', r"in `base_fingerprint.a` `NaN`, which is no number of JSON"),
        ('"composed_from": [{"a": -Infinity}]', r"in `composed_from\[0\].a` `-Infinity`, which is no number"),
        ('"base_fingerprint": {"a": 1e400}', r"in `base_fingerprint.a` the number 1e400, beyond any float"),
        ('"risk": "\\ud800"', r"in `risk` half a character"),
    ],
)
def test_json_that_readers_understand_differently_is_refused(more, words):
    with pytest.raises(ConfigError, match=f"x.json is no valid JSON .*{words}"):
        PolicyPatchConfig.from_json(f'{{"format_version": 1, {more}}}', "x.json")


@given(configs)
def test_the_hash_is_of_what_is_said_and_not_of_how_it_is_written(config):
    values = config.to_dict()
    turned = dict(reversed(values.items()))
    texts = [config.to_json(), json.dumps(turned), json.dumps(values, indent=7, ensure_ascii=False)]
    assert {read_config(text, "x")[1] for text in texts} == {config_hash(values)}
    assert config_hash({**values, "sha256": "another"}) == config_hash(values)


@pytest.mark.parametrize("field", [field.name for field in fields(PolicyPatchConfig) if field.name != "sha256"])
def test_the_hash_covers_each_field_and_its_absence(field):
    values = PolicyPatchConfig(
        conflicts=["risk:a"], order={"after": ["b"]}, interference=[MEASURED], rebased_from={"sha256": "ab"}
    ).to_dict()
    changed = [{**values, field: "another"}, {key: values[key] for key in values if key != field}]
    assert len({config_hash(one) for one in [values, *changed]}) == 3


def test_the_hash_tells_types_apart_and_is_the_one_that_the_documentation_says():
    assert len({config_hash({"a": value}) for value in (1, 1.0, "1", True, None, -0.0, 0.0, [], {})}) == 9
    assert config_hash({"b": [1, "é"], "a": None}) == hashlib.sha256(b'{"a":null,"b":[1,"\\u00e9"]}').hexdigest()


@pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ("3", "int"), ('"a"', "str"), ("null", "NoneType")])
def test_json_that_is_no_object_is_refused(text, kind):
    with pytest.raises(ConfigError, match=f"policy_patch_config.json holds a {kind}; expected a JSON object"):
        PolicyPatchConfig.from_json(text)


def test_a_bad_value_in_a_file_names_the_file():
    with pytest.raises(ConfigError, match=r"x.json: `PolicyPatchConfig` has no key `rsk` .* mean `risk`"):
        PolicyPatchConfig.from_json('{"format_version": 1, "rsk": "toxicity"}', "x.json")
    with pytest.raises(ConfigError, match=r"x.json: `num_virtual_tokens=0`"):
        PolicyPatchConfig.from_json('{"format_version": 1, "num_virtual_tokens": 0}', "x.json")


def test_a_config_without_the_later_fields_has_the_bytes_and_the_hash_it_always_had():
    values = PolicyPatchConfig(risk="toxicity", policy_patch_version="0.1.0").to_dict()
    assert not set(LATER) & set(values)
    assert config_hash(values) == "1ffb52a94e22fa54cd49f982351252316a5b211330320e20f6031a42e51cadac"
    for name, value in zip(LATER, (["risk:a"], {"after": ["b"]}, [MEASURED], {"sha256": "ab"}), strict=True):
        assert config_hash(replace(PolicyPatchConfig(**values), **{name: value}).to_dict()) != config_hash(values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("conflicts", ["bias patch"], "`conflicts`: `bias patch` names no patch; expected `risk:gender_bias`"),
        ("conflicts", ["org/bias@1.0"], "names the version '1.0' of `org/bias`, which is no semantic version"),
        ("conflicts", "risk:a", "conflicts"),
        ("order", {"behind": ["org/bias"]}, "`order` has the key 'behind'; expected `after` and `before`"),
        ("order", {"after": ["sha256:12"]}, "`order.after`: `sha256:12` names no patch"),
        ("interference", [{"risk": "a"}], r"`interference\[0\]` has the keys \['risk'\]; expected stack, risk"),
        ("interference", [{**MEASURED, "stacked": float("nan")}], r"`interference\[0\].stacked='nan'`: expected a fin"),
        ("interference", [{**MEASURED, "base": True}], r"`interference\[0\].base='True'`: expected a finite number"),
        ("interference", [{**MEASURED, "verdict": "fine"}], "`interference.*fine'`: expected one of kept, hurts"),
        ("interference", [{**MEASURED, "stack": MEASURED["stack"][:1]}], "has 1 patches; a measured stack has"),
        ("interference", [{**MEASURED, "stack": [{"name": "a"}] * 2}], "`a` has no `sha256`"),
    ],
)
def test_rules_for_stacks_are_checked(field, value, message):
    with pytest.raises(ConfigError, match=message):
        PolicyPatchConfig(**{field: value})
