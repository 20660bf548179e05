"""Patches in the forms that other engines take: each form is one file of this room and one line in `formats.py`.

Names are loaded on first use. Requests to a running engine are the business of `policy_patch.serving`.
"""

from typing import TYPE_CHECKING

from policy_patch._lazy import lazy_names

_MODULE_OF = {
    "ExportFormat": "policy_patch.export.formats",
    "Exported": "policy_patch.export.formats",
    "register_export_format": "policy_patch.export.formats",
}

__all__ = [
    "ExportFormat",
    "Exported",
    "register_export_format",
]

if TYPE_CHECKING:
    from policy_patch.export.formats import Exported, ExportFormat, register_export_format

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
