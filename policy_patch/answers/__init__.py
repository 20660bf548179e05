"""Gets answers from models: sampled, streamed, or requested from a server or an engine; stored and shared on disk.

`policy_patch.data` and `policy_patch.evaluation` choose the prompts and use the answers.
"""
