"""The folder of a saved patch, read and written without a model: `read_patch_folder` and `write_patch_folder`.

This is the path to import them from; they are implemented in `policy_patch.patch.folder`. With a model use
`PolicyPatchModel.from_pretrained` and `save_pretrained`, and for the Hub `policy_patch.hub`.
"""

from policy_patch.patch.folder import read_patch_folder, write_patch_folder

__all__ = ["read_patch_folder", "write_patch_folder"]
