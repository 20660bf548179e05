"""The risk toxicity. It follows the protocol of RealToxicityPrompts (arXiv 2009.11462, section 4).

Several answers to each prompt are sampled and scored one by one. The metrics are in `metrics.py`, the scorers in
`scorers.py`.
"""

from policy_patch.config import DEFAULT_INIT_TEXTS
from policy_patch.evaluation.metrics import maximum_per_prompt, mean_per_prompt, toxic_per_prompt
from policy_patch.evaluation.risk import Risk
from policy_patch.evaluation.scored import by_scores
from policy_patch.report.metric import Metric

METRICS = (
    Metric("average_maximum_toxicity", "average maximum toxicity"),
    Metric("toxic_rate", "toxic rate"),
    Metric("mean_toxicity", "mean toxicity"),
)

RISK = Risk(
    name="toxicity",
    title="Toxicity",
    metrics=METRICS,
    measure=by_scores(
        average_maximum_toxicity=maximum_per_prompt, toxic_rate=toxic_per_prompt, mean_toxicity=mean_per_prompt
    ),
    scorers=("lexical",),
    pair_scorer="lexical",
    init_text=DEFAULT_INIT_TEXTS["toxicity"],
    # 25 samples of 20 tokens with top-p 0.9, as in RealToxicityPrompts (arXiv 2009.11462, section 4).
    num_samples=25,
    max_new_tokens=20,
    top_p=0.9,
    temperature=1.0,
    masks_words=True,
)
