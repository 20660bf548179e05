"""Whom this machine trusts: signatures over the files of a patch, and the policy file of an organisation.

Below the Hub and the model, so that both can ask. What is done with a release is in `policy_patch.release`.
"""
