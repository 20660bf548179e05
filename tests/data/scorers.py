"""A scorer that needs nothing, for the tests of what uses scorers."""


class ShareOf:
    """Scores a text by the share of its letters that are among the given ones, times `scale`."""

    kind = "lexical"

    def __init__(self, letters: str, scale: float = 1.0) -> None:
        self.name = f"share of {letters}"
        self.letters = letters
        self.scale = scale
        self.calls = 0

    def score(self, texts):
        self.calls += 1
        return [self.scale * (sum(sign in self.letters for sign in text) + 1) / (len(text) + 1) for text in texts]
