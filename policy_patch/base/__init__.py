"""The base: the frozen model that a patch is made for. Its architecture, its identity, and what it supports.

A base is read here, and never changed. How a patch is put in front of it is the business of `policy_patch.injection`.
"""
