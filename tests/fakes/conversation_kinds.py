"""Conversations of the kinds that chat templates differ in."""

from __future__ import annotations

from spoken_turns import Call, Turn

WEATHER = Call("weather", {"city": "Oslo"}, "call_1")

KINDS: dict[str, list[Turn]] = {
    "plain": [Turn("user", ("Hi.",)), Turn("assistant", ("Hello!",)), Turn("user", ("Who?",))],
    "system": [Turn("system", ("Be brief.",)), Turn("user", ("Hi.",))],
    "parts": [Turn("user", ("One.", "Two.")), Turn("assistant", ("a", "b")), Turn("user", ("Three.",))],
    "many systems": [
        Turn("system", ("A.",)),
        Turn("user", ("Hi.",)),
        Turn("assistant", ("Ho.",)),
        Turn("system", ("B.",)),
        Turn("user", ("Who?",)),
    ],
    "developer": [Turn("system", ("A.",)), Turn("developer", ("B.",)), Turn("user", ("Hi.",))],
    "empty": [Turn("system", ("",)), Turn("user", ("",)), Turn("assistant", ("",)), Turn("user", ("",))],
    "a call": [Turn("user", ("Weather?",)), Turn("assistant", (), (WEATHER,)), Turn("tool", ("rain",), (), "call_1")],
    "words and a call": [
        Turn("user", ("Weather?",)),
        Turn("assistant", ("I look.",), (WEATHER,)),
        Turn("tool", ("rain",), (), "call_1"),
        Turn("assistant", ("Rain.",)),
        Turn("user", ("Ok.",)),
    ],
    "two calls": [
        Turn("user", ("Weather?",)),
        Turn("assistant", (), (WEATHER, Call("clock", {}, "call_2"))),
        Turn("tool", ("rain",), (), "call_1"),
        Turn("tool", ("noon",), (), "call_2"),
    ],
    "a call cut short": [
        Turn("user", ("Weather?",)),
        Turn("assistant", (), (Call("weather", '{"city": "Os', "c"),)),
        Turn("tool", ("cut",), (), "c"),
        Turn("user", ("Go on",)),
    ],
}
