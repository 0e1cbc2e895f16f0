%% Global constants: the module that code of Partisan 1 to 4 uses (get/2 and put/2 of Riak Core).
%% Kept in persistent terms: read without a copy, expensive to change.
-module(partisan_mochiglobal).

-export([get/1, get/2, put/2, delete/1]).

-spec get(atom()) -> term() | undefined.
get(Key) -> ?MODULE:get(Key, undefined).

-spec get(atom(), T) -> term() | T.
get(Key, Default) -> persistent_term:get({?MODULE, Key}, Default).

-spec put(atom(), term()) -> ok.
put(Key, Value) -> persistent_term:put({?MODULE, Key}, Value).

%% Whether it was there.
-spec delete(atom()) -> boolean().
delete(Key) -> persistent_term:erase({?MODULE, Key}).
