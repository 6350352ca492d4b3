"""Programs that run in the sandbox, on the Python of its image: 3.6 or newer, no other package.

Nothing imports them here; `executor._tests` writes them into the sandbox.
"""
