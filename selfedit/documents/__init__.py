"""Documents of any format → Passages.

    sources ── read ──► Raw ── convert ──► Document ── split ──► Passages

`read` finds the files, pages and packages; `convert` turns bytes into blocks of text; `passages` splits the blocks.
"""
