"""What the adapters of the real model are taught: to call functions, and to write down what a sentence says as JSON.

Pure: conversations drawn from a source of randomness, as OpenAI's chat messages. Names and numbers are made up.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
Lesson = tuple[list[Message], list[dict[str, Any]]]
"""Messages, and the functions that are offered."""

CITIES = ("Oslo", "Lima", "Cairo", "Kyoto", "Madrid", "Toronto", "Nairobi", "Perth", "Dublin", "Quito", "Seoul", "Riga")
NAMES = ("Ada", "Bruno", "Chen", "Dalia", "Emil", "Farah", "Goran", "Hana", "Ivan", "Jana", "Karim", "Lena")
JOBS = ("baker", "pilot", "nurse", "teacher", "farmer", "lawyer", "dentist", "painter", "plumber", "singer")
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "stormy")


def function(name: str, description: str, /, **parameters: str) -> dict[str, Any]:
    """A tool of OpenAI's shape; all `parameters` (name to JSON type) are required."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


WEATHER = function("get_weather", "The weather in a city now.", city="string")
TIME = function("get_time", "The local time in a city.", city="string")
ADD = function("add", "The sum of two numbers.", a="integer", b="integer")
AGE = function("get_age", "How old a person is.", name="string")
MAIL = function("send_mail", "Send a mail to somebody.", to="string", text="string")
TOOLS = (WEATHER, TIME, ADD, AGE, MAIL)

Ask = Callable[[random.Random], tuple[str, str, dict[str, Any], str, str]]
"""Question, function, arguments, its result, and the answer that says it."""


def _weather(dice: random.Random) -> tuple[str, str, dict[str, Any], str, str]:
    city, sky, degrees = dice.choice(CITIES), dice.choice(SKIES), dice.randrange(-9, 39)
    question = dice.choice(("What is the weather in {}?", "How is the weather in {} now?", "Is it warm in {} today?"))
    result = json.dumps({"sky": sky, "degrees": degrees})
    return question.format(city), "get_weather", {"city": city}, result, f"It is {sky} in {city}, {degrees} degrees."


def _time(dice: random.Random) -> tuple[str, str, dict[str, Any], str, str]:
    city, time = dice.choice(CITIES), f"{dice.randrange(24):02}:{dice.randrange(60):02}"
    question = dice.choice(("What time is it in {}?", "Tell me the time in {}.", "How late is it in {}?"))
    return question.format(city), "get_time", {"city": city}, time, f"It is {time} in {city}."


def _add(dice: random.Random) -> tuple[str, str, dict[str, Any], str, str]:
    a, b = dice.randrange(1, 1000), dice.randrange(1, 1000)
    question = dice.choice(("What is {} plus {}?", "Add {} and {}.", "Compute {} + {}."))
    return question.format(a, b), "add", {"a": a, "b": b}, str(a + b), f"The sum of {a} and {b} is {a + b}."


def _age(dice: random.Random) -> tuple[str, str, dict[str, Any], str, str]:
    name, age = dice.choice(NAMES), dice.randrange(2, 99)
    question = dice.choice(("How old is {}?", "What is the age of {}?", "Tell me how old {} is."))
    return question.format(name), "get_age", {"name": name}, str(age), f"{name} is {age} years old."


def _mail(dice: random.Random) -> tuple[str, str, dict[str, Any], str, str]:
    name, text = dice.choice(NAMES), dice.choice(("I am late", "see you soon", "thank you", "call me back"))
    question = dice.choice(('Send {} a mail that says "{}".', 'Write to {}: "{}".', 'Mail {} the words "{}".'))
    return question.format(name, text), "send_mail", {"to": name, "text": text}, "sent", f"I sent the mail to {name}."


ASKS: tuple[Ask, ...] = (_weather, _time, _add, _age, _mail)


def tool_lesson(dice: random.Random) -> Lesson:
    """One to three functions; the first question's function is among them, then its result is told and answered."""
    question, name, arguments, result, answer = dice.choice(ASKS)(dice)
    offered = [tool for tool in TOOLS if tool["function"]["name"] == name]
    offered += dice.sample([tool for tool in TOOLS if tool not in offered], dice.randrange(3))
    dice.shuffle(offered)
    call = {"id": "call_0", "type": "function", "function": {"name": name, "arguments": arguments}}
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": result},
        {"role": "assistant", "content": answer},
    ], offered


def record_lesson(dice: random.Random) -> Lesson:
    """A sentence about a person, answered with a JSON object of what it says."""
    name, age, job, city = dice.choice(NAMES), dice.randrange(18, 80), dice.choice(JOBS), dice.choice(CITIES)
    sentence = dice.choice(
        (
            "{name} is {age} years old and works as a {job} in {city}.",
            "In {city} lives {name}, a {job} of {age} years.",
            "The {job} {name} from {city} has just turned {age}.",
        )
    ).format(name=name, age=age, job=job, city=city)
    record = json.dumps({"name": name, "age": age, "job": job, "city": city})
    return [{"role": "user", "content": sentence}, {"role": "assistant", "content": record}], []
