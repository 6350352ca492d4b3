#!/bin/bash
mkdir -p /logs/verifier
cd /testbed && python3 -m pytest -q && echo 1 >/logs/verifier/reward.txt || echo 0 >/logs/verifier/reward.txt
