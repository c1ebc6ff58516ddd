"""The manifest's vocabulary: every section, key, type and limit, as frozen pydantic models; presets; shape arithmetic.

This room is what `dipfast schema` prints and what an error quotes. It needs neither torch nor files, and `presets` and
`shapes` need no pydantic either. It holds no values tuned for quality: those are in `presets`. Sigma is in 8-bit units
(0 to 255) wherever it appears; everything else that speaks of pixels is in [0, 1].
"""
