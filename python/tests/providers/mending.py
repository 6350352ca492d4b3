"""The instance of the tests, and what mends it."""

from __future__ import annotations

DATASET = "demo"
INSTANCE_ID = "imgforge__abacus-1"

MEND = (
    r"""sed -i 's/^        if self.accept("("):/        if self.accept("-"):\n"""
    r"""            return -self.atom()\n        if self.accept("+"):\n"""
    r"""            return self.atom()\n&/' /testbed/src/abacus/parser.py"""
)
"""A command that mends the instance."""

PROOF = "cd /testbed && python -c \"from abacus.parser import evaluate; print(evaluate('2*-3'))\""
"""A command that prints -6 where it is mended, and fails where it is not."""
