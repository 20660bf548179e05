"""Settings of an evaluation by their plain names, for tests that change one of them; put into their groups here."""

from policy_patch.evaluation.settings import Alternatives, EvaluationSampling


def grouped(**given):
    """Return keywords of `evaluate_policy_patch`, those that belong to a group in their group."""
    groups = {}
    for group, cls in (("alternatives", Alternatives), ("sampling", EvaluationSampling)):
        names = [name for name in cls.__dataclass_fields__ if name in given]
        groups[group] = cls(**{name: given.pop(name) for name in names})
    return {**groups, **given}
