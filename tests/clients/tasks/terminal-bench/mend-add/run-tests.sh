#!/bin/bash
cd /testbed && python3 -m pytest "$TEST_DIR/test_outputs.py" -rA
