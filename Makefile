# The README's commands are `make demo` and `make check`; `make help` lists the rest.
# This file builds; the checks are in tools/lint.mk and test/test.mk.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := all

JOBS := $(shell nproc 2>/dev/null || echo 2)

# --- what the machine has ----------------------------------------------------------------------
# Asked once and only when a rule needs it; handed to child makes by the environment.
ifndef ERL_INCLUDE
ERL_INCLUDE = $(eval ERL_INCLUDE := $$(shell erl -noinput -eval 'io:put_chars(code:root_dir() ++ "/usr/include"),halt().' 2>/dev/null || echo /usr/lib/erlang/usr/include))$(ERL_INCLUDE)
endif

# 2.3 is the first liburing with the flags the loop asks for. NO_URING=1 builds without it.
URING_MIN := 2.3
ifeq ($(NO_URING),)
HAVE_URING := $(shell pkg-config --exists 'liburing >= $(URING_MIN)' 2>/dev/null && echo yes)
endif

# --- flags ---------------------------------------------------------------------------------------
ifeq ($(origin CC),default)
CC := gcc
endif
CFLAGS ?= -O2 -g
CWARN := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
CBASE  = -std=gnu17 $(CWARN) -fPIC -fvisibility=hidden -pthread -Ic_src -isystem $(ERL_INCLUDE)
CURING := $(if $(HAVE_URING),-DHAVE_LIBURING $(shell pkg-config --cflags liburing 2>/dev/null))
LURING := $(if $(HAVE_URING),$(shell pkg-config --libs liburing 2>/dev/null))
LCORE := -lcrypto -lz -pthread
# Symbols are bound when the object is loaded: one that is missing must stop `listen`, not the VM
# an hour later. Only the two entry points are visible.
LSHARED := -shared -Wl,-z,now -Wl,-z,relro -Wl,--version-script=c_src/partisan_drv.map

CORE := $(sort $(wildcard c_src/base/*.c c_src/proto/*.c c_src/io/*.c) c_src/amqp/codec.c)
GLUE := $(sort $(wildcard c_src/vm/*.c))

# Short lines; V=1 shows the commands.
say = $(if $(V),,@printf '  %-4s %s\n' $(1) $@; )

# --- variants of the C code ------------------------------------------------------------------------
# $(call variant,NAME,COMPILER,FLAGS,LIBS): build/NAME/libpartisan.a (base, proto, io) and
# build/NAME/partisan_drv.so. Flags are kept in a file, so that changed flags rebuild. Everything is
# written beside its place and renamed: two makes at once, or one that is stopped, leave no half file.
define variant
build/$(1)/flags: FORCE
	@mkdir -p $$(@D)
	@printf '%s\n' '$(2) $(CBASE) $(3)' | cmp -s - $$@ || printf '%s\n' '$(2) $(CBASE) $(3)' > $$@
build/$(1)/%.o: c_src/%.c build/$(1)/flags | headers
	@mkdir -p $$(@D)
	$$(call say,CC)$(2) $(CBASE) $(3) -MMD -MP -MT $$@ -MF $$(@:.o=.d) -c -o $$(@:.o=.$$$$$$$$.o) $$< && mv $$(@:.o=.$$$$$$$$.o) $$@
build/$(1)/libpartisan.a: $(CORE:c_src/%.c=build/$(1)/%.o)
	$$(call say,AR)ar crs $$@.$$$$$$$$ $$^ && mv $$@.$$$$$$$$ $$@
build/$(1)/partisan_drv.so: $(GLUE:c_src/%.c=build/$(1)/%.o) build/$(1)/libpartisan.a c_src/partisan_drv.map
	$$(call say,LD)$(2) $(3) $(LSHARED) -o $$@.$$$$$$$$ $(GLUE:c_src/%.c=build/$(1)/%.o) build/$(1)/libpartisan.a \
		$(4) $(LCORE) && mv $$@.$$$$$$$$ $$@
-include $(CORE:c_src/%.c=build/$(1)/%.d) $(GLUE:c_src/%.c=build/$(1)/%.d)
endef

# UBSan's vptr check is C++ only; everything else stops the program at the first report.
SAN_ADDRESS := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
SAN_THREAD := -O1 -g -fno-omit-frame-pointer -fsanitize=thread

$(eval $(call variant,release,$(CC),$(CFLAGS) $(CURING),$(LURING)))

# --- the product -------------------------------------------------------------------------------------
.PHONY: all erl so clean help headers FORCE
all: so erl ## priv/ (the shared object, and the AMQP program if its library is there) and ebin/

so: priv/partisan_drv.so amqp

# A rename, never a write in place: a running node has the old file mapped.
priv/partisan_drv.so: build/release/partisan_drv.so
	@mkdir -p priv
	@cp $< $@.$$$$ && mv $@.$$$$ $@
	$(if $(HAVE_URING)$(NO_URING),,@echo "note: liburing >= $(URING_MIN) not found: only the poll backend is built in (Debian package: liburing-dev)")

# The program that talks to an AMQP broker. Without its library everything else is built.
AMQP_SRC := $(sort $(wildcard c_src/amqp/*.c))
ifndef HAVE_RABBITMQ
HAVE_RABBITMQ := $(shell pkg-config --exists 'librabbitmq >= 0.11' 2>/dev/null && echo yes || echo no)
endif
LAMQP = $(shell pkg-config --libs librabbitmq)

.PHONY: amqp
ifeq ($(HAVE_RABBITMQ),yes)
amqp: priv/partisan_amqp
else
amqp:
	@echo "note: librabbitmq >= 0.11 not found: built without partisan_amqp_peer_service_manager's program (Debian package: librabbitmq-dev)"
endif

build/release/partisan_amqp: $(AMQP_SRC:c_src/%.c=build/release/%.o)
	$(call say,LD)$(CC) $(CFLAGS) -Wl,-z,now -Wl,-z,relro -o $@.$$$$ $^ $(LAMQP) && mv $@.$$$$ $@
-include $(AMQP_SRC:c_src/%.c=build/release/%.d)

priv/partisan_amqp: build/release/partisan_amqp
	@mkdir -p priv
	@cp $< $@.$$$$ && mv $@.$$$$ $@

# Which header is missing, and the Debian package that has it, before the compiler says it worse.
headers:
	@tools/check-headers '$(CC)' '$(ERL_INCLUDE)'

ERLC_FLAGS := +debug_info -Werror +warn_unused_vars -I include -pa ebin
ERL_SRC := $(sort $(wildcard src/*.erl src/*/*.erl))
MODULES := $(notdir $(ERL_SRC:.erl=))
BEAMS := $(MODULES:%=ebin/%.beam)
vpath %.erl $(sort $(dir $(ERL_SRC)))

erl: $(BEAMS) $(if $(wildcard src/partisan.app.src),ebin/partisan.app)

ebin/%.beam: %.erl
	@mkdir -p ebin build/erl
	$(call say,ERLC)erlc $(ERLC_FLAGS) -MMD -MP -MT $@ -MF build/erl/$*.d -o ebin $<

# erlc warns where it does not find a behaviour, so those come before the modules that have one.
BEHAVIOURS := $(patsubst %.erl,ebin/%.beam,$(notdir $(shell grep -l '^-callback' $(ERL_SRC))))
$(filter-out $(BEHAVIOURS),$(BEAMS)): | $(BEHAVIOURS)

# Changes when a module comes or goes, so that a removed one leaves ebin.
build/erl/modules: FORCE
	@mkdir -p $(@D)
	@echo $(MODULES) | cmp -s - $@ || echo $(MODULES) > $@

ebin/partisan.app: src/partisan.app.src tools/app-file build/erl/modules
	@mkdir -p ebin
	$(call say,APP)tools/app-file $< $@ $(MODULES)

-include $(wildcard build/erl/*.d)

clean: ## remove everything that was built
	rm -rf build ebin priv/partisan_drv.so priv/partisan_amqp

help: ## this list
	@tools/help $(MAKEFILE_LIST)

include tools/lint.mk
include test/test.mk
include bench/net/net.mk

FORCE:
