"""A patch: the learned vectors, the folder that holds them with their configuration, and patches made of patches.

No model is needed here, and no network.
"""
