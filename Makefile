# `make demo` shows the main job from nothing; `make test` runs every check. Both install or start
# what is missing, say so, and can be run again.

.PHONY: help demo test test-python test-clients fmt bench clean-demo clean-test

help:
	@echo 'make demo        build the images of the bundled dataset, from nothing'
	@echo 'make test        formatting, lints and all tests, engine tests included'
	@echo 'make test-python  all tests of the Python package'
	@echo 'make test-clients  other programs that speak to Docker, on imgforge serve'
	@echo 'make fmt         format the sources'
	@echo 'make bench       run the benchmarks'
	@echo 'make clean-demo  remove the images of the demo'
	@echo 'make clean-test  remove what `make test` left: states, its user, its packages'

demo:
	@scripts/demo

test:
	@scripts/test

test-python:
	@scripts/test-python

test-clients:
	@scripts/test-clients

fmt:
	cargo fmt

bench:
	cargo bench

clean-demo:
	@scripts/clean-demo

clean-test:
	@scripts/clean-test
