"""The Lua script that every change of pools and addresses is: one call, atomic, with its events.

Its parts stand in ``lua/``, a noun a file, and are one program in the order of their names. The reply is JSON; the
keys and what stands in them are told in the README.

Rules for editors: whatever can fail comes before the first write, or is undone by ``undo``, since Redis does not
roll a script back; cjson writes an empty table as an object.
"""

from importlib.resources import files

_PARTS = sorted((part.name, part.read_text()) for part in files("cnm_ipam").joinpath("lua").iterdir())

SCRIPT = "\n".join(text for _, text in _PARTS)
