# Static checks. Every one is a target of its own, so that it can be run alone.

LINT_GCC := -O2 -Werror
LINT_CLANG := -O2 -Werror
$(eval $(call variant,lint-gcc,gcc,$(LINT_GCC) $(CURING),$(LURING)))
$(eval $(call variant,lint-clang,clang,$(LINT_CLANG) $(CURING),$(LURING)))

C_FILES := $(sort $(wildcard c_src/*/*.[ch] test/c/*.[ch] test/fuzz/*.[ch] test/prop/*.[ch] tools/*.c bench/*/*.[ch] test/net/*.[ch]))
SCRIPTS := $(shell grep -lE '^\#!.*[ /](ba)?sh$$' .ci/* tools/* test/run/* test/*/run test/rabbitmq/package test/*/*.sh bench/* demo/* 2>/dev/null)

LINTS := lint-gcc lint-clang lint-amqp lint-exports lint-layers lint-size lint-format lint-tidy lint-cppcheck lint-net lint-floor \
	 lint-shell lint-erl lint-xref lint-dialyzer
.PHONY: lint format $(LINTS)

lint: ## all static checks
	@tools/run-lints $(LINTS)

format: ## apply .clang-format
	clang-format -i $(C_FILES)

lint-gcc: build/lint-gcc/partisan_drv.so
lint-clang: build/lint-clang/partisan_drv.so

# Without librabbitmq's headers there is nothing to compile it with.
LINT_AMQP := $(if $(filter yes,$(HAVE_RABBITMQ)),c_src/amqp/conn.c c_src/amqp/main.c)
lint-amqp:
ifneq ($(LINT_AMQP),)
	gcc $(CBASE) -O2 -Werror -fsyntax-only $(LINT_AMQP)
	clang $(CBASE) -O2 -Werror -fsyntax-only $(LINT_AMQP)
	printf '%s\n' $(LINT_AMQP) | xargs -P $(JOBS) -I{} clang-tidy --quiet {} -- $(CBASE) \
		2> >(grep -v 'warnings\? generated\|Suppressed\|Use -header-filter' >&2)
endif

lint-exports: build/lint-gcc/partisan_drv.so
	@tools/check-exports $<

# Works on objects, so the symbols that are really used decide, not the words in the source.
lint-layers: build/lint-gcc/libpartisan.a
	@tools/check-layers build/lint-gcc

lint-size:
	@tools/check-size

lint-format:
	clang-format --dry-run -Werror $(C_FILES)

lint-tidy:
	printf '%s\n' $(CORE) $(GLUE) | xargs -P $(JOBS) -I{} clang-tidy --quiet {} -- $(CBASE) $(CURING) \
		2> >(grep -v 'warnings\? generated\|Suppressed\|Use -header-filter' >&2)

# shiftTooManyBitsSigned: gcc and clang define the right shift of a negative number.
lint-cppcheck:
	cppcheck -q --enable=warning,performance,portability --error-exitcode=1 --inline-suppr \
		--std=c11 --library=posix --suppress=missingIncludeSystem --suppress=unmatchedSuppression \
		--suppress=shiftTooManyBitsSigned \
		-j $(JOBS) -Ic_src $(if $(HAVE_URING),-DHAVE_LIBURING) c_src

# bench/prepare builds it without make.
FLOOR_SRC := $(wildcard bench/floor/*.c)
FLOOR_CFLAGS = -std=gnu17 $(CWARN) -pthread $(CURING)
lint-floor:
	gcc $(FLOOR_CFLAGS) -O2 -Werror -fsyntax-only $(FLOOR_SRC)
	clang $(FLOOR_CFLAGS) -O2 -Werror -fsyntax-only $(FLOOR_SRC)
	clang $(FLOOR_CFLAGS) -UHAVE_LIBURING -O2 -Werror -fsyntax-only $(FLOOR_SRC)
	printf '%s\n' $(FLOOR_SRC) | xargs -P $(JOBS) -I{} clang-tidy --quiet {} -- $(FLOOR_CFLAGS) \
		2> >(grep -v 'warnings\? generated\|Suppressed\|Use -header-filter' >&2)
	cppcheck -q --enable=warning,performance,portability --error-exitcode=1 --inline-suppr \
		--std=c11 --library=posix --suppress=missingIncludeSystem --suppress=unmatchedSuppression \
		-j $(JOBS) $(if $(HAVE_URING),-DHAVE_LIBURING) bench/floor

lint-shell:
	shellcheck -S warning $(SCRIPTS)

# Compiled anew with the warnings that are too strict for a user's build.
lint-erl: erl
	@rm -rf build/lint-erl
	@mkdir -p build/lint-erl
	erlc $(ERLC_FLAGS) +warn_export_vars +warn_unused_import +warn_obsolete_guard -o build/lint-erl $(ERL_SRC)

lint-xref: erl
	@tools/check-xref ebin

# The PLT holds what the carrier may use: any other application is an unknown function.
PLT := build/otp.plt
DIALYZER_APPS := erts kernel stdlib
lint-dialyzer: erl $(PLT)
	dialyzer --plt $(PLT) -Werror_handling -Wunmatched_returns -Wunknown -r ebin

$(PLT):
	@mkdir -p $(@D)
	dialyzer -q --build_plt --output_plt $@.new --apps $(DIALYZER_APPS)
	@mv $@.new $@
