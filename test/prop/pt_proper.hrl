%% The part of PropEr's language that the properties here use, on PropEr's exported functions.
%% Not proper.hrl: Debian puts that in another package than PropEr itself, and its parse transform
%% is not needed.
-define(FORALL(X, Type, Prop), proper:forall(Type, fun(X) -> Prop end)).
-define(LET(X, Type, Gen), proper_types:bind(Type, fun(X) -> Gen end, false)).
-define(SIZED(Size, Gen), proper_types:sized(fun(Size) -> Gen end)).
-define(WHENFAIL(Action, Prop), proper:whenfail(fun() -> Action end, fun() -> Prop end)).
%% SetUp :: fun(() -> CleanUp :: fun(() -> ok))
-define(SETUP(SetUp, Prop), proper:setup(SetUp, Prop)).
