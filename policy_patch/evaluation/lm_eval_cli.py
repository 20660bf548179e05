"""`python -m policy_patch.evaluation.lm_eval_cli`: runs lm-eval's command line with the model type `policy-patch`.

All options are lm-eval's. In versions of lm-eval after 0.4.13, the command `lm-eval` knows `policy-patch` itself.
"""

import sys

from policy_patch.errors import PolicyPatchError


def main() -> None:
    """Run lm-eval's command line with the arguments of this process.

    Raises:
        SystemExit: with code 2 after a [`PolicyPatchError`], which is printed to stderr; else as lm-eval raises it.
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
