"""The sizes of a base, by the field names that most configurations use.

They tell architectures apart, not models: `fingerprint.py` compares the weights.
"""

from typing import TYPE_CHECKING, Any

from policy_patch.errors import BaseMismatchError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDDING_FIELDS = ("embedding_rows", "embedding_width")
CONFIG_FIELDS = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
FIELDS = ("model_type", *EMBEDDING_FIELDS, *CONFIG_FIELDS)
_SHOWN = 100  # characters of a value in a message


def architecture_of(base: "PreTrainedModel") -> dict[str, Any]:
    """Return the fields of `FIELDS` that the base has, as plain JSON values."""
    config, embeddings = base.config.get_text_config(), base.get_input_embeddings()
    shape = getattr(getattr(embeddings, "weight", None), "shape", ())
    # The module's own sizes first: packed weights have another shape.
    sizes = [getattr(embeddings, name, None) for name in ("num_embeddings", "embedding_dim")]
    sizes = shape if None in sizes and len(shape) == 2 else sizes
    found = {
        "model_type": config.model_type,
        **dict(zip(EMBEDDING_FIELDS, sizes)),
        **{field: getattr(config, field, None) for field in CONFIG_FIELDS},
    }
    found = {field: list(value) if isinstance(value, tuple) else value for field, value in found.items()}
    return {field: value for field, value in found.items() if is_field_value(value)}


def check_architecture(base: "PreTrainedModel", expected: dict[str, Any], source: str) -> None:
    """Raise `BaseMismatchError` if fields differ; a field that one side lacks is ignored."""
    found = architecture_of(base)
    different = [
        f"`{field}` is {_short(found[field])}, expected {_short(expected[field])}"
        for field in FIELDS
        if field in found and field in expected and found[field] != expected[field]
    ]
    if different:
        raise BaseMismatchError(
            f"{source} was made for another architecture: {'; '.join(different)}. Load the base that it was made for; "
            "a patch cannot be carried over to another size or architecture."
        )


def is_field_value(value: Any) -> bool:
    """Say whether a field may have this value: a name, a size, or sizes layer by layer."""
    values = value if isinstance(value, list) else [value]
    return isinstance(value, str) or all(type(one) is int and 0 <= one < 2**63 for one in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
