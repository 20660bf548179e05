"""Patches in the forms that other engines take: each form is one file of this room and one line in `formats.py`.

Names are loaded on first use. Requests to a running engine are the business of `policy_patch.serving`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "Baked": "policy_patch.export.baking",
    "ExportFormat": "policy_patch.export.formats",
    "Exported": "policy_patch.export.formats",
    "bake": "policy_patch.export.baking",
    "export_as": "policy_patch.export.formats",
    "export_gguf": "policy_patch.export.gguf_export",
    "export_prompt_embeds": "policy_patch.export.prompt_embeds",
    "from_peft": "policy_patch.export.peft_adapter",
    "read_patch_tokens": "policy_patch.export.baking",
    "register_export_format": "policy_patch.export.formats",
    "to_peft": "policy_patch.export.peft_adapter",
}

__all__ = [
    "Baked",
    "ExportFormat",
    "Exported",
    "bake",
    "export_as",
    "export_gguf",
    "export_prompt_embeds",
    "from_peft",
    "read_patch_tokens",
    "register_export_format",
    "to_peft",
]

if TYPE_CHECKING:
    from policy_patch.export.baking import Baked, bake, read_patch_tokens
    from policy_patch.export.formats import Exported, ExportFormat, export_as, register_export_format
    from policy_patch.export.gguf_export import export_gguf
    from policy_patch.export.peft_adapter import from_peft, to_peft
    from policy_patch.export.prompt_embeds import export_prompt_embeds

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
