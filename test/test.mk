# The test stages. `make check` runs them in the order of CHECK_STAGES and stops at the first
# failed one; each is a target that can be run alone. The runners are in test/run.

CHECK_STAGES := all lint check-rebar3 unit fuzz-replay prop sim-short mutants $(if $(wildcard test/*_tests.erl),eunit) \
	        check-nouring ct-uring ct-poll many-short check-asan-vm $(if $(wildcard test/oracle/run),oracle) check-net bench-short

.PHONY: check unit fuzz-replay fuzz prop eunit ct-uring ct-poll oracle check-rebar3 check-nouring \
	check-asan-vm check-delivery check-otp check-amqp check-rabbitmq soak bench bench-full bench-short demo cover

check: ## all tests
	@tools/deps hint check
	@tools/check $(CHECK_STAGES)

# --- sanitized builds --------------------------------------------------------------------------------
SAN_CC := gcc
$(eval $(call variant,asan,$(SAN_CC),$(SAN_ADDRESS) $(CURING),$(LURING)))
$(eval $(call variant,tsan,$(SAN_CC),$(SAN_THREAD) $(CURING),$(LURING)))
$(eval $(call variant,nouring,$(SAN_CC),$(SAN_ADDRESS),))

# --- unit: Check programs ----------------------------------------------------------------------------
# test/c/test_NAME.c is a program; other files in test/c are helpers linked into each of them.
UNITS := $(sort $(patsubst test/c/%.c,%,$(wildcard test/c/test_*.c)))
UNIT_HELPERS := $(filter-out test/c/test_%,$(wildcard test/c/*.c))
UNIT_VM := $(filter-out c_src/vm/nif%,$(GLUE))
# Those that meet threads run a second time, under ThreadSanitizer.
UNITS_THREADS := $(sort $(patsubst test/c/%.c,%,$(shell grep -lE 'pthread|"io/' test/c/test_*.c 2>/dev/null)))

# $(call unit,VARIANT,FLAGS,LIBS): build/unit/VARIANT/test_NAME
define unit
build/unit/$(1)/%: test/c/%.c $(UNIT_HELPERS) build/$(1)/libpartisan.a
	@mkdir -p $$(@D)
	$$(call say,TEST)$(SAN_CC) $(CBASE) -Wno-conversion -Wno-missing-prototypes -Wno-shadow -Werror $(2) -Itest/c -MMD -MP -MF $$@.d \
		$$(shell pkg-config --cflags check) -o $$@ $$< $(UNIT_HELPERS) build/$(1)/libpartisan.a \
		$(3) $(LCORE) $$(shell pkg-config --libs check)
# test_vm_NAME: with the driver's callbacks, and test/c/vm for the VM around them.
build/unit/$(1)/test_vm_%: test/c/test_vm_%.c $(UNIT_HELPERS) test/c/vm/fake_vm.c $(UNIT_VM:c_src/%.c=build/$(1)/%.o) build/$(1)/libpartisan.a
	@mkdir -p $$(@D)
	$$(call say,TEST)$(SAN_CC) $(CBASE) -Wno-conversion -Wno-missing-prototypes -Wno-shadow -Werror $(2) -Itest/c -MMD -MP -MF $$@.d \
		$$(shell pkg-config --cflags check) -o $$@ $$< $(UNIT_HELPERS) test/c/vm/fake_vm.c \
		$(UNIT_VM:c_src/%.c=build/$(1)/%.o) build/$(1)/libpartisan.a $(3) $(LCORE) $$(shell pkg-config --libs check)
-include $(UNITS:%=build/unit/$(1)/%.d)
endef
$(eval $(call unit,asan,$(SAN_ADDRESS) $(CURING),$(LURING)))
$(eval $(call unit,tsan,$(SAN_THREAD) $(CURING),$(LURING)))
$(eval $(call unit,nouring,$(SAN_ADDRESS),))

unit: $(UNITS:%=build/unit/asan/%) $(UNITS_THREADS:%=build/unit/tsan/%) ## C unit tests, ASan+UBSan and TSan
	@test/run/unit unit $^

# The build without liburing: compiles, links no liburing, passes the unit tests of what is built upon the
# loop. proto/ and base/ are the same in both builds (lint-layers keeps liburing.h out of them).
UNITS_IO := $(sort $(patsubst test/c/%.c,%,$(shell grep -lE '"(io|vm)/' test/c/test_*.c)))
check-nouring: build/nouring/partisan_drv.so $(UNITS_IO:%=build/unit/nouring/%) ## the build without liburing
	@if readelf -d $< | grep liburing; then echo "built with NO_URING, yet needs liburing"; exit 1; fi
	@test/run/unit check-nouring $(filter build/unit/%,$^)

# --- fuzz ------------------------------------------------------------------------------------------
FUZZERS := $(sort $(patsubst test/fuzz/fuzz_%.c,%,$(wildcard test/fuzz/fuzz_*.c)))
FUZZ_FLAGS := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
$(eval $(call variant,fuzz,clang,$(FUZZ_FLAGS) -fsanitize=fuzzer-no-link $(CURING),$(LURING)))

build/fuzz/run/%: test/fuzz/fuzz_%.c build/fuzz/libpartisan.a
	@mkdir -p $(@D)
	$(call say,FUZZ)clang $(CBASE) -Wno-missing-prototypes $(FUZZ_FLAGS) -fsanitize=fuzzer -MMD -MP -MF $@.d -Itest/fuzz \
		-o $@ $< build/fuzz/libpartisan.a $(LURING) $(LCORE)
build/fuzz/replay/%: test/fuzz/fuzz_%.c test/run/replay.c build/asan/libpartisan.a
	@mkdir -p $(@D)
	$(call say,TEST)$(SAN_CC) $(CBASE) -Wno-missing-prototypes $(SAN_ADDRESS) -MMD -MP -MF $@.d -Itest/fuzz \
		-o $@ $< test/run/replay.c build/asan/libpartisan.a $(LURING) $(LCORE)
-include $(wildcard build/fuzz/run/*.d build/fuzz/replay/*.d)

fuzz-replay: $(FUZZERS:%=build/fuzz/replay/%) ## the fuzz corpus through each target, ASan+UBSan
	@test/run/fuzz-replay $(FUZZERS)

FUZZ ?= $(firstword $(FUZZERS))
TIME ?= 60
# New inputs go to build/, the corpus is what was minimised and kept by hand.
fuzz: build/fuzz/run/$(FUZZ) ## libFuzzer: make fuzz FUZZ=NAME TIME=SECONDS
	@mkdir -p build/fuzz/found/$(FUZZ)
	tools/sanitized $< -max_total_time=$(TIME) -print_final_stats=1 -artifact_prefix=build/fuzz/found/$(FUZZ)- \
		build/fuzz/found/$(FUZZ) test/fuzz/corpus/$(FUZZ)

# --- properties ------------------------------------------------------------------------------------
# test/prop/NAME_main.c is a C program that a property talks to: build/prop/NAME.
PROP_N ?= 200
PROP_SRC := $(sort $(wildcard test/prop/*.erl))
PROP_HELPERS := $(sort $(patsubst test/prop/%_main.c,build/prop/%,$(wildcard test/prop/*_main.c)))

build/prop/%: test/prop/%_main.c build/asan/libpartisan.a
	@mkdir -p $(@D)
	$(call say,TEST)$(SAN_CC) $(CBASE) -Wno-missing-prototypes $(SAN_ADDRESS) -MMD -MP -MF $@.d -Itest/prop \
		-o $@ $< build/asan/libpartisan.a $(LURING) $(LCORE)
-include $(PROP_HELPERS:%=%.d)

prop: sim-build $(PROP_HELPERS) ## properties; PROPER_N=1000 for more, PROP=prop_ring for a part
	@mkdir -p build/prop/ebin
	erlc $(ERLC_FLAGS) -pa ebin -pa build/sim -o build/prop/ebin $(PROP_SRC)
	@PROPER_N=$${PROPER_N:-$(PROP_N)} PROP='$(PROP)' test/run/prop build/prop/ebin

# --- overlays, simulated -----------------------------------------------------------------------------
# test/sim: the overlay cores under a virtual clock, and the experiments of the papers.
SIM_NODES ?= 10000
SIM_SEED ?= 1
.PHONY: sim sim-short sim-build mutants
sim-build: erl
	@mkdir -p build/sim
	erlc $(ERLC_FLAGS) -o build/sim $(wildcard test/sim/*.erl)
sim-short: sim-build ## the overlays simulated, 400 nodes
	@test/run/sim ebin build/sim 400
sim: sim-build ## the papers' figures, SIM_NODES=10000 simulated nodes; some minutes
	@test/run/sim ebin build/sim $(SIM_NODES) $(SIM_SEED)

# Each rule in test/prop/mutants is broken once, and a property has to notice.
mutants: sim-build $(PROP_HELPERS) ## the overlays' rules broken: are the properties awake?
	@mkdir -p build/prop/ebin
	erlc $(ERLC_FLAGS) -pa build/sim -o build/prop/ebin test/prop/prop_overlay.erl test/prop/prop_ring.erl \
		test/prop/prop_malformed.erl test/prop/prop_members.erl
	@test/run/mutants ebin build/sim build/prop/ebin

# --- eunit -------------------------------------------------------------------------------------------
eunit: erl ## test/*_tests.erl
	@mkdir -p build/eunit
	erlc $(ERLC_FLAGS) -pa ebin -o build/eunit $(wildcard test/*_tests.erl)
	@test/run/eunit build/eunit $(patsubst test/%.erl,%,$(wildcard test/*_tests.erl))

# --- Common Test ---------------------------------------------------------------------------------------
CT_SRC := $(sort $(wildcard test/ct/*.erl))
CT_DATA := $(wildcard test/ct/*_SUITE_data)
SUITE ?=
CASE ?=
# The suites that run with the shared object under ASan: the VM is several times slower there.
ASAN_SUITES ?= channel_SUITE channel_end_SUITE session_SUITE atoms_SUITE listener_SUITE plain_peer_SUITE

.PHONY: ct-build
ct-build: all net
	@mkdir -p build/ct
	erlc $(ERLC_FLAGS) -pa ebin -I test/ct -o build/ct $(CT_SRC)
	@for d in $(CT_DATA); do ln -sfn $(CURDIR)/$$d build/ct/$${d##*/}; done

# The application above the carrier knows no backend: its suites run once, on poll, which is always there.
APP_SUITES := member_SUITE manager_SUITE overlay_SUITE heal_SUITE partisan_api_SUITE partisan_otp_SUITE relay_SUITE
CARRIER_SUITES := $(filter-out $(APP_SUITES),$(patsubst test/ct/%.erl,%,$(sort $(wildcard test/ct/*_SUITE.erl))))

ct-uring: ct-build ## Common Test on io_uring; SUITE=name CASE=name for a part
	@SUITES='$(or $(SUITE),$(CARRIER_SUITES))' CASES='$(CASE)' test/run/ct uring uring ebin
ct-poll: ct-build ## Common Test on poll
	@SUITES='$(SUITE)' CASES='$(CASE)' test/run/ct poll poll ebin

# A copy of the application with the sanitized object, the runtime preloaded into every VM.
check-asan-vm: ct-build build/asan/partisan_drv.so ## suites with the object under ASan+UBSan
	@mkdir -p build/asan-app/priv build/asan-app/ebin
	@cp ebin/* build/asan-app/ebin/
	@cp build/asan/partisan_drv.so build/asan-app/priv/
	@SUITES='$(or $(SUITE),$(ASAN_SUITES))' CASES='$(CASE)' CT_ASAN=1 test/run/ct asan-vm auto build/asan-app/ebin

# The overlays on SCALE_NODES real nodes, each a VM of about 20 MB with one scheduler.
SCALE_NODES ?= 64
.PHONY: check-scale many many-build many-short many-grow
check-scale: ct-build ## HyParView, broadcast and relay on 64 real nodes; SCALE_NODES for more
	@SUITES=overlay_SUITE OVERLAY_NODES=$(SCALE_NODES) test/run/ct scale auto ebin

# test/many: how a large cluster comes together, what it costs, how it heals.
MANY ?= 256 hyparview kill=30 ads
many-build: ct-build sim-build
	@mkdir -p build/many
	erlc $(ERLC_FLAGS) -pa ebin -o build/many $(wildcard test/many/*.erl)
many: many-build ## a cluster of 256 real nodes and its figures; MANY='512 star kill=10 ads', see test/run/many
	@test/run/many $(MANY)
GROW ?= build/many-grow
many-grow: many-build ## what a node costs in clusters of 16 to 128 nodes, beside a full mesh: table and plot in GROW
	@test/run/many-grow $(GROW)
many-short: many-build ## the same with 16 nodes, as a check
	@test/run/many 16 hyparview kill=25 quick

# Broken networks with the times that users have (ct-poll has short ones): ticks each minute.
HEAL_NODES ?= 16
.PHONY: check-heal
check-heal: ct-build ## networks cut and healed under real nodes, default times; some 5 minutes
	@SUITES=heal_SUITE HEAL_TIMES=default HEAL_NODES=$(HEAL_NODES) test/run/ct heal auto ebin
	@grep '^heal:' build/logs/ct-heal/output.txt

# --- rebar3 ------------------------------------------------------------------------------------------
check-rebar3: ## rebar3 compile, from a clean copy, without a network
	@test/run/rebar3

# --- order and delivery between real nodes -----------------------------------------------------------
ORACLE_SECONDS ?= 20
SOAK_SECONDS ?= 3600
oracle: all net ## order oracle, lanes paused at random; ORACLE_SECONDS for each of six runs
	@test/run/oracle $(ORACLE_SECONDS)
soak: all net ## the same for hours: SOAK_SECONDS in all; SOAK_SEEDS='7 8' for chosen seeds
	@test/run/net-selftest --long
	@$(MAKE) -s prop PROPER_SEED=new PROPER_N=1500
	@test/run/soak $(SOAK_SECONDS) $(SOAK_SEEDS)
	@$(MAKE) -s check-heal
	@SWITCH=all $(MAKE) -s ct-poll SUITE=manager_SUITE CASE=switch
	@$(MAKE) -s many MANY='256 hyparview kill=30 ads'
	@$(MAKE) -s many MANY='512 hyparview kill=30 ads'
check-delivery: all ## the benchmark's cells, judged by delivery alone
	@test/run/delivery

# --- what takes longer or needs more: not in `make check` -----------------------------------------------
# $(call other,SCRIPT): run it if it is there.
other = @if [ -x $(1) ]; then $(1); else echo "$@: $(1) is not in this tree"; exit 1; fi

check-otp: all ## OTP's own distribution suites, beside inet_tcp
	$(call other,test/otp/run)
check-amqp: all ## nodes that talk through an AMQP broker only, a real RabbitMQ
	@tools/deps need amqp
	@$(MAKE) -s amqp
	$(call other,test/amqp/run)
check-rabbitmq: all ## three RabbitMQ nodes on the carrier
	$(call other,test/rabbitmq/run)
bench: all ## the tables that matter, some 10 minutes; bench/run --help
	bench/run
# Stopped, it goes on where it was.
bench-full: all ## all cases on all carriers, hours; call again after an interrupt
	bench/run --full --resume last
bench-short: all ## the benchmark's cells as a delivery check: fails on no time
	bench/short
demo: ## three nodes, verified traffic, a node killed and back
	@demo/run

# --- coverage of the C code ------------------------------------------------------------------------------
COV := -O0 -g --coverage
$(eval $(call variant,cover,$(SAN_CC),$(COV) $(CURING),$(LURING)))
$(eval $(call unit,cover,$(COV) $(CURING),$(LURING)))
cover: $(UNITS:%=build/unit/cover/%) ## line coverage of base, proto and io by the unit tests
	@find build/cover -name '*.gcda' -delete
	@test/run/unit cover $^
	@gcov -n $$(find build/cover/base build/cover/proto build/cover/io -name '*.gcda') 2>/dev/null | \
		awk -F"'" '/^File .c_src/ { f = $$2 } /^Lines executed/ && f { sub("Lines executed:", ""); printf "  %-36s %s\n", f, $$0; f = "" }'
