%% The behaviour of an overlay: which nodes are members, which of them are linked, and how that
%% heals. An overlay is a pure core: a state, and a function from an event to a new state and a
%% list of effects. It has no process, no clock and no randomness of its own, so the same code runs
%% on real nodes (one shell process turns the world into events and carries effects out) and in the
%% simulator (thousands of cores, a virtual clock, one seed).
%%
%% What the shell promises:
%%   - Events come one at a time. Effects of one event are carried out in the order of the list,
%%     before the next event is handed in.
%%   - `{send, N, T}`s to one node arrive as `{msg, Self, T}` in the order they were given, without
%%     gaps, for as long as the link stands; what a lost link had not delivered is lost. A send to
%%     a node with neither a link nor a dial in progress is dropped without a word.
%%   - Sends after a `{connect, Spec}` wait for the link, and go with it if the dial fails.
%%   - Every dial ends in one `{up, N}` or one `{down, N, Reason}`; a `{connect, Spec}` to a linked
%%     node gives `{up, N}` again. A link that the other side dialled also gives `{up, N}`, and a
%%     `{msg, N, _}` never comes before it. With hidden links it comes together with the first
%%     message (another hidden node may be no member at all): who dialled speaks first.
%%   - `{disconnect, N}` closes the link once everything sent before has left; `{down, N, _}`
%%     follows when it is closed, at once if there was no link. A dial in progress is given up.
%%   - A timer fires once, as `{timer, Name}`. Starting a running one restarts it; after `cancel`
%%     it does not fire, not even when its time had come already.
%%
%% Errors: a core must take any `{msg, From, Term}`: peers may be of another version, older or newer.
%% What it cannot take it drops with a `{malformed, From}`, before any of it is in the state, where it
%% would fail later (partisan_overlay_shape helps). The shell treats a crash of the core as the end
%% of the overlay, never hides it.
-module(partisan_overlay).

-export_type([spec/0, config/0, now_ms/0, tag/0, event/0, effect/0, notice/0, info/0]).

%% How to reach a node. The name is the identity; the rest (listen_addrs, channels) is for the
%% shell's dialler, and cores pass it on unread.
-type spec() :: #{name := node(), atom() => term()}.

%% Options of the overlay, as given by the user. Each core documents its own and their defaults,
%% and fails in init/4 with `{bad_option, Key, Value, Expected}` on a value that cannot work.
-type config() :: #{atom() => term()}.

%% Milliseconds of a clock that never goes back. Only differences mean something.
-type now_ms() :: integer().

%% Names a question, so that the answer finds who asked.
-type tag() :: term().

-type event() ::
        {join, spec()}              %% the user: become a member of the cluster that node is in
      | {leave, node()}             %% the user: own name: leave; another's: take it out
      | {call, tag(), term()}       %% the user asks something else; answered by {reply, Tag, _}:
                                    %%   {update, [spec()]}  members are these and no others
                                    %%   {reserve, term()}   keep a place in the view
                                    %%   unknown ones: {error, not_implemented}
      | {up, node()}                %% a link to the node stands, whoever dialled
      | {down, node(), term()}      %% the link is gone, or could not be made
      | {msg, node(), term()}       %% what the core on a linked node sent
      | {timer, term()}
      | {latency, node(), microseconds() | unreachable}.   %% answer to {measure, Spec}

-type microseconds() :: non_neg_integer().

-type effect() ::
        {connect, spec()}
      | {disconnect, node()}
      | {send, node(), term()}
      | {timer, term(), Milliseconds :: non_neg_integer()}
      | {cancel, term()}
      | {measure, spec()}           %% round trip to a node, linked or not, without keeping a link
      | {members, [spec()]}         %% from now on these are the members, own node among them
      | {notify, notice()}
      | {routes, [{node() | default, Via :: node()}], [node() | default]}
                                    %% messages to that node, or to any that has no link and no
                                    %% route of its own, are relayed by neighbour Via; those in
                                    %% the second list are no more
      | {ways, partisan_route:t()}  %% all that is known of links, if there is more than routes
                                    %% to know: for other ways when a neighbour is lost
      | {reply, tag(), term()}
      | {malformed, node()}         %% that node said what this version cannot take: a line now and then
      | {log, logger:level(), string(), [term()]}.

%% For on_up/on_down, broadcast and routing. A neighbour is a linked node that the overlay uses;
%% the link of a neighbour_down may stand for a while yet, to bring what was on its way.
-type notice() ::
        {neighbour_up, spec()}
      | {neighbour_down, node(), Reason :: term()}
      | left.                       %% the leave of the own node is complete

%% A picture of the state, for people, tests and partisan:topology/0. Cores add keys of their own.
%% `links`, `[{node(), State :: term()}]`: connections that the core has not closed yet, or is making,
%% neighbours or not; another overlay that takes over closes those that it does not use.
-type info() :: #{members := [spec()], neighbours := [node()], atom() => term()}.

%% Now is the time of the call. Rand is a seeded state for the `_s` functions of rand; the core
%% keeps what is left of it. Spec of the own node: the name in it is the one others use.
-callback init(Self :: spec(), config(), now_ms(), rand:state()) -> {State :: term(), [effect()]}.

-callback handle(event(), now_ms(), State :: term()) -> {State :: term(), [effect()]}.

-callback info(State :: term()) -> info().
