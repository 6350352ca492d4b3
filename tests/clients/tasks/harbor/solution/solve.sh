#!/bin/bash
sed -i 's/a - b/a + b/' /testbed/calc.py
