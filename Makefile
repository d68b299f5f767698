# Runs on Debian 12 as root: tools/setup installs what each target needs.
SHELL_FILES = tools/setup tools/build-deb $(wildcard tools/check-deb*) .ci/run hooks/vif-post.d/xenbw.hook hooks/vif-group \
	debian/xenbw.postinst debian/xenbw.prerm debian/xenbw.postrm debian/tests/unit debian/tests/smoke tests/deb/run $(wildcard tests/deb/container*) \
	tests/xen/image tests/xen/guest/init \
	etc/completion/xenbw

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile

demo:  ## see it work: virtual machines, traffic and a block, in network namespaces
	@tools/setup demo
	@.venv/bin/python -m tests.demo

test:  ## unit tests, kernel tests with real bridges, iptables and nft, and the mongo tests
	@tools/setup test
	@.venv/bin/pytest -q tests/unit tests/kernel
	@$(MAKE) --no-print-directory mongo

mongo:  ## tests with a genuine mongod, under Debian's pymongo and under today's
	@tools/setup mongo
	@.venv/bin/pytest -q tests/mongo
	@PYTHONPATH=$(CURDIR)/.venv/pymongo4 .venv/bin/pytest -q tests/mongo

lint:  ## ruff, mypy, shellcheck
	@tools/setup test
	.venv/bin/ruff check . hooks/vif-hook libexec/notify
	.venv/bin/ruff format --check . hooks/vif-hook libexec/notify
	.venv/bin/mypy
	shellcheck $(SHELL_FILES)

deb:  ## build dist/xenbw_VERSION_all.deb and its source; lintian, and the same bytes twice
	@tools/setup deb
	@tools/build-deb
	@tools/check-deb

deb-test:  ## build dist/ again in clean Debian 12 and 13; install, upgrade, break, remove, purge it on a booted Debian 12
	@tools/setup deb
	@tools/check-deb-clean bookworm
	@tools/check-deb-clean trixie
	@tests/deb/run

xen-test:  ## the package in dist/ on a real Xen, in emulation: about 12 minutes
	@tools/setup xen
	@ls dist/xenbw_*_all.deb >/dev/null 2>&1 || tools/build-deb
	@/usr/bin/python3 -m tests.xen

bench:  ## measure what xenbw costs, beside what is there anyway
	@tools/setup bench
	@.venv/bin/python -m benchmarks

clean:  ## remove what the other targets made
	rm -rf .venv dist build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help demo test mongo lint deb deb-test xen-test bench clean
