# Provisional; grows into the full house.
ERL_TOP := $(shell erl -noshell -eval 'io:put_chars(code:root_dir()),halt().')
CFLAGS ?= -O2 -g
CF := -std=gnu17 -Wall -Wextra -Wshadow -Wconversion -fPIC -Ic_src -I$(ERL_TOP)/usr/include $(shell pkg-config --cflags liburing 2>/dev/null) $(if $(shell pkg-config --exists liburing && echo y),-DHAVE_LIBURING) $(CFLAGS)
LIBS := $(shell pkg-config --libs liburing 2>/dev/null) -lcrypto -lpthread
SRC := $(wildcard c_src/base/*.c c_src/proto/*.c c_src/io/*.c c_src/vm/*.c)
all: priv/partisan_drv.so ebin
priv/partisan_drv.so: $(SRC) $(wildcard c_src/*/*.h c_src/*/*.def)
	@mkdir -p priv
	$(CC) $(CF) -shared -o $@ $(SRC) $(LIBS)
.PHONY: all ebin
ebin:
	@mkdir -p ebin
	erlc +debug_info -Werror -I include -o ebin src/*.erl
