"""Placeholder."""
import sys
