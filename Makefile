# Runs on Debian 12 or 13 as root: tools/setup installs what each target needs. CONTRIBUTING.md says which target is for what.
SHELL_FILES = tools/setup tools/soak tools/build-deb tools/fresh-deb $(wildcard tools/check-deb*) .ci/run hooks/vif-post.d/xenbw.hook hooks/vif-group \
	debian/xenbw.preinst debian/xenbw.postinst debian/xenbw.prerm debian/xenbw.postrm debian/tests/unit debian/tests/smoke tests/deb/run $(wildcard tests/deb/container*) \
	tests/xen/image tests/xen/guest/init

# The tests wait more than they work, so each processor has three of them at a time.
# What they write is small and soon gone: in memory no disk holds them up, if there is room.
ROOM = $(shell [ "$$(df --output=avail /dev/shm 2>&1 | tail -1)" -gt 2000000 ] 2>/dev/null && echo /dev/shm || echo /tmp)
# A test that passed leaves nothing there. Debian 12's own pytest does not know this option, so it is not in pyproject.toml.
PYTEST = TMPDIR=$(ROOM) .venv/bin/pytest -q --durations=20 -o tmp_path_retention_policy=failed
LAYERS = tests/mongo tests/kernel tests/unit
TOGETHER = -n $(shell expr 3 \* $$(nproc)) --dist loadgroup -m "not alone"

# The tests start Python programs thousands of times: each starts in half the time if it need not be compiled.
unexport PYTHONDONTWRITEBYTECODE

# The Debian releases that the package is for; make xen-test SUITES=trixie: one of them.
SUITES ?= bookworm trixie
EACH = set -e; for suite in $(SUITES); do

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile

demo:  ## see it work: virtual machines, traffic and a block, in network namespaces
	@tools/setup demo
	@.venv/bin/python -m tests.demo

check: lint  ## ruff, mypy, shellcheck and the unit tests
	@$(PYTEST) $(TOGETHER) tests/unit

test:  ## unit tests, kernel tests with real bridges, iptables and nft, and the tests with a genuine mongod
	@tools/setup mongo
	@$(PYTEST) $(TOGETHER) $(LAYERS)
	@PYTHONPATH=$(CURDIR)/.venv/pymongo4 $(PYTEST) $(TOGETHER) tests/mongo
	@$(PYTEST) -m alone $(LAYERS)

lint:  ## ruff, mypy, shellcheck, and which module may import which
	@tools/setup test
	@mkdir -p build
	@.venv/bin/ruff check . hooks/vif-hook libexec/notify tools/steps tools/captures
	@.venv/bin/ruff format --check . hooks/vif-hook libexec/notify tools/steps tools/captures
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache >build/lint-imports.log || { cat build/lint-imports.log; exit 1; }
	@shellcheck $(SHELL_FILES)

ci:  ## what .ci/run runs: make test, lint, the package, a smoke test of it on both Debians and both Xens, the demo, the pages
	@tools/setup all
	@tools/steps lint+deb images test deb-smoke+xen-smoke demo browser

full:  ## everything, with all cases of the long tests, and the benchmarks; goes on where docs/last-full-run.md says it was
	@tools/setup all
	@tools/steps --record docs/last-full-run.md --keep-going lint+deb images test \
		deb-test@bookworm deb-test@trixie deb-upgrade deb-forky xen-test@bookworm xen-test@trixie demo browser bench soak

images:  ## build the Debian and Xen machines that the package is tested on, unless they are there
	@tools/setup xen
	@$(EACH) tests/deb/container $$suite --image; tests/xen/image $$suite >/dev/null; done

deb:  ## build dist/xenbw_VERSION_all.deb and its source; lintian, and the same bytes twice
	@tools/setup deb
	@tools/build-deb
	@tools/check-deb

deb-smoke:  ## install, block, upgrade, remove and purge the package in dist/ on booted Debian 12 and 13
	@tools/setup deb
	@tools/fresh-deb
	@$(EACH) tests/deb/run $$suite smoke; done

deb-test:  ## build dist/ again in clean Debian 12 and 13; install, upgrade, break, remove, purge it on both, booted
	@tools/setup deb
	@tools/fresh-deb
	@$(EACH) tools/check-deb-clean $$suite; tests/deb/run $$suite; done

deb-upgrade:  ## upgrade a booted Debian 12 with the package in dist/ and blocked VMs to Debian 13
	@tools/setup deb
	@tools/fresh-deb
	@tests/deb/run bookworm+trixie

deb-forky:  ## build, smoke and unit tests of the package in dist/ on Debian testing; a failure is only a warning
	@tools/setup deb
	@tools/fresh-deb
	@{ tools/check-deb-clean forky && tests/deb/run forky smoke && tests/deb/run forky autopkgtest; } || \
		echo "warning: make $@ failed"

xen-smoke:  ## the package in dist/ on real Xens, in emulation, one boot each: meter, block, restart, release, the last byte
	@tools/setup xen
	@tools/fresh-deb
	@$(EACH) /usr/bin/python3 -m tests.xen --suite $$suite --smoke; done

xen-test:  ## the package in dist/ on a real Xen 4.17 and a real 4.20, in emulation: about 12 and 22 minutes
	@tools/setup xen
	@tools/fresh-deb
	@$(EACH) /usr/bin/python3 -m tests.xen --suite $$suite; done

browser:  ## the HTML pages in chromium: light, dark, on a phone; legible, without a request or a complaint
	@tools/setup browser
	@$(PYTEST) tests/browser

captures:  ## draw the pictures in docs/captures again
	@tools/setup browser
	@.venv/bin/python tools/captures

bench:  ## measure what xenbw costs, beside what is there anyway
	@tools/setup bench
	@.venv/bin/python -m benchmarks

TIMES = 1
soak: LAYERS = tests/mongo tests/kernel
soak:  ## the kernel and mongo tests while four other programs keep the machine busy; TIMES=3: so many times in a row
	@tools/setup soak
	@tools/soak $(TIMES) "$(LAYERS)"

clean:  ## remove what the other targets made
	rm -rf .venv dist build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help demo check test lint ci full images deb deb-smoke deb-test deb-upgrade deb-forky xen-smoke xen-test browser captures bench soak clean
