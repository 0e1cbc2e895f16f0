# ptnet, the emulated network: build/net/ptnet, its unit tests (part of `make unit`) and its
# self-test (`make check-net`).

NET_SRC := $(sort $(wildcard bench/net/*.c))
# No system call in these: they are tested without a network.
NET_PURE := $(patsubst %,bench/net/%.c,conf flow heap link pkt train)
NET_UNITS := $(sort $(patsubst test/net/%.c,%,$(wildcard test/net/test_*.c)))
NET_CFLAGS := -std=gnu17 $(CWARN) -Ibench/net

.PHONY: net check-net lint-net

net: build/net/ptnet ## the emulated network, build/net/ptnet

# One compiler run for all of it: it is small, and nothing else is built from its objects.
build/net/ptnet: $(NET_SRC) $(wildcard bench/net/*.h)
	@mkdir -p $(@D)
	$(call say,LD)$(CC) -O2 -g $(NET_CFLAGS) -o $@.$$$$ $(NET_SRC) -lm && mv $@.$$$$ $@

build/unit/asan/test_net_%: test/net/test_net_%.c $(NET_PURE) $(wildcard bench/net/*.h)
	@mkdir -p $(@D)
	$(call say,TEST)$(SAN_CC) $(NET_CFLAGS) -Wno-conversion -Wno-missing-prototypes -Wno-shadow -Werror $(SAN_ADDRESS) \
		$(shell pkg-config --cflags check) -o $@ $< $(NET_PURE) $(shell pkg-config --libs check) -lm

unit: $(NET_UNITS:%=build/unit/asan/%)

check-net: build/net/ptnet ## the emulated network's self-test
	@test/run/net-selftest

lint-net:
	gcc $(NET_CFLAGS) -O2 -Werror -fsyntax-only $(NET_SRC)
	clang $(NET_CFLAGS) -O2 -Werror -fsyntax-only $(NET_SRC)
	printf '%s\n' $(NET_SRC) | xargs -P $(JOBS) -I{} clang-tidy --quiet {} -- $(NET_CFLAGS) \
		2> >(grep -v 'warnings\? generated\|Suppressed\|Use -header-filter' >&2)
	cppcheck -q --enable=warning,performance,portability --error-exitcode=1 --inline-suppr \
		--std=c11 --library=posix --suppress=missingIncludeSystem --suppress=unmatchedSuppression \
		-j $(JOBS) -Ibench/net bench/net
