"""What must not leave this machine: tokens and keys in texts, and names of its folders.

Nothing is sent from here.
"""
