"""The base: the frozen model that a patch is made for. Its architecture, its identity, and what it supports.

This room reads a base and never changes it. `policy_patch.injection` puts a patch in front of it.
"""
