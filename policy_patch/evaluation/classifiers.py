"""Computes the probability of some labels of a sequence classifier of transformers, for scorers and judges.

The scorer or the judge chooses the labels.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from policy_patch.errors import EvaluationError
from policy_patch.evaluation.marks import special_tokens, taken_apart

_UNKNOWN_LIMIT = 512  # tokens, if neither tokenizer nor model has a limit; chosen by us: most classifiers have it


class LabelProbabilities:
    """Computes, with a loaded classifier, the probability that a text has one of the given labels.

    A classifier with one logit: its sigmoid. Labels that exclude each other: the sum of their probabilities. Labels
    that do not exclude each other (`problem_type="multi_label_classification"`): the highest of their probabilities.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The classifier.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer. If it has no pad token, each batch is one text.
        name (`str`):
            Name of the classifier in error messages.
        labels (`Sequence[str]`):
            The labels that count.
        batch_size (`int`):
            Texts per forward pass.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, labels: Sequence[str], batch_size: int) -> None:
        self._model, self._tokenizer, self._name = model, tokenizer, name
        self._batch_size = batch_size if tokenizer.pad_token is not None else 1
        self._columns = [index for index, label in model.config.id2label.items() if label in labels]
        self._kind_of_output = kind_of_output(model.config)

    def of(self, *texts: Sequence[str]) -> list[float]:
        """Return the probability, 0 to 1, for each text of one list, or for each pair of texts of two lists.

        Texts that are longer than the model's limit are cut.

        Raises:
            EvaluationError: a forward pass fails, or a logit is not a number.
        """
        import torch

        from policy_patch.answers.eval_mode import evaluating

        marks = special_tokens(self._tokenizer)  # `[SEP]` inside a text would begin a second text
        texts = tuple([taken_apart(text, marks) for text in column] for column in texts)
        found: list[float] = []
        with torch.no_grad(), evaluating(self._model):
            for start in range(0, len(texts[0]), self._batch_size):
                found += self._batch([list(column[start : start + self._batch_size]) for column in texts])
        if any(value != value for value in found):
            raise EvaluationError(f"The logits of `{self._name}` are not numbers (NaN or infinite); it cannot judge.")
        return found

    def _batch(self, columns: list[list[str]]) -> list[float]:
        from policy_patch.answers.positions import forward_errors

        inputs = self._tokenizer(
            *columns, return_tensors="pt", padding=len(columns[0]) > 1, truncation=True, max_length=self.limit
        ).to(self._model.device)
        with forward_errors(self._name, inputs["input_ids"].shape[1], EvaluationError):
            logits = self._model(**inputs).logits.float()  # (batch, labels)
        if self._kind_of_output == "softmax":
            return logits.softmax(-1)[:, self._columns].sum(-1).clamp(max=1.0).tolist()
        return logits.sigmoid()[:, self._columns].amax(-1).tolist()

    @cached_property
    def limit(self) -> int:
        """The largest number of tokens that tokenizer, configuration and position embeddings allow for a text."""
        from policy_patch.answers.positions import configured_limit, learned_limit

        limits = [configured_limit(self._model), learned_limit(self._model, self._words)]
        known = [limit for limit in limits if limit is not None] or [_UNKNOWN_LIMIT]
        return min(self._tokenizer.model_max_length, *known)

    def _words(self, count: int) -> Any:
        return self._tokenizer(" ".join(["a"] * count), return_tensors="pt").to(self._model.device)


def kind_of_output(config: Any) -> str:
    """Return the function that turns a classifier's logits into probabilities: `"sigmoid"` or `"softmax"`.

    Raises:
        EvaluationError: the model is a regression model.
    """
    if config.problem_type == "regression":
        raise EvaluationError("The classifier is a regression model; its number is no probability. Take another one.")
    multi_label = config.problem_type == "multi_label_classification"
    return "sigmoid" if multi_label or config.num_labels == 1 else "softmax"
