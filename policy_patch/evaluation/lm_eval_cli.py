"""`python -m policy_patch.evaluation.lm_eval_cli`: lm-eval's own command line, with the model `policy-patch` in it.

All options are lm-eval's. With an lm-eval newer than 0.4.13 its own command finds the model too.
"""

import sys

from policy_patch.errors import PolicyPatchError


def main() -> None:
    """Run lm-eval's command line on the words of this process.

    Raises:
        SystemExit: with 2 after an error of ours, which is told on stderr; else as lm-eval does.
    """
    from policy_patch.evaluation.lm_eval_model import register_policy_patch_lm

    try:
        register_policy_patch_lm()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except PolicyPatchError as error:
        sys.stderr.write(f"policy-patch: {error}\n")
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
