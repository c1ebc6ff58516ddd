"""Strict YAML → `Manifest` → items; content ids. No torch, and no image is opened."""

from dipfast.manifest.document import load, parse
from dipfast.manifest.identity import content_id
from dipfast.manifest.items import Item, one_spelling
from dipfast.manifest.options import files_beside, settings_from
from dipfast.manifest.paths import natural_key, title, url
from dipfast.manifest.resolved import Manifest
from dipfast.manifest.spelling import Choice
from dipfast.manifest.wording import keys_of_option
from dipfast.settings.document import Settings, json_schema
from dipfast.settings.files import SUFFIXES

__all__ = [
    "SUFFIXES",
    "Choice",
    "Item",
    "Manifest",
    "Settings",
    "content_id",
    "files_beside",
    "json_schema",
    "keys_of_option",
    "load",
    "natural_key",
    "one_spelling",
    "parse",
    "settings_from",
    "title",
    "url",
]
