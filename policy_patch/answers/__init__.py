"""Texts out of models: sampled, streamed, asked of a server or of an engine, kept on disk and shared by processes.

What is asked and what is done with the answers is the business of `policy_patch.data` and `policy_patch.evaluation`.
"""
