"""Conversations and facts: the question-and-answer half of the demo model's training text.

Responsible for turning `topics` into chat turns with paraphrased questions, and into plain facts. Pure: the caller
passes the random generator, and the same generator state gives the same text. It knows nothing of special tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pilotlight_model_making.story_corpus import story
from pilotlight_model_making.topics import CAPITALS, OPPOSITES, SENTENCES, SMALL_TALK, TOPICS, WORDS

MODEL_NAME = "Pilot"

IDENTITY_QUESTIONS = (
    "Who are you?",
    "who are you",
    "What is your name?",
    "What are you?",
    "Tell me who you are.",
    "Introduce yourself.",
)
_TOPIC_QUESTIONS = (
    "What is {topic}?",
    "What is {topic}?",
    "what is {topic}",
    "What does {bare} mean?",
    "Explain {topic}.",
    "Can you explain {topic}?",
    "Please explain {topic}.",
    "Tell me about {topic}.",
    "What do you know about {topic}?",
    "Explain {topic} in one sentence.",
)
_MORE = ("Tell me more.", "tell me more", "More, please.", "Go on.", "And then?", "What else?")
_STORY_REQUESTS = (
    "Tell me a story.",
    "Tell me a story",
    "Tell me a short story.",
    "Write a story.",
    "Write a short story.",
    "Can you tell me a story?",
)
_SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "Answer in short sentences.",
    "Be kind.",
)
_ROLE_NAMES = ("Nova", "Ember", "Spark", "Iris", "Atlas", "Juno", "Otto", "Hugo", "Vera", "Felix")


@dataclass(frozen=True)
class Message:
    """One turn of a chat; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


def identity_answer(name: str) -> str:
    """Return how a model called `name` introduces itself."""
    return f"I am {name}. I am a small language model, and I run on Pilotlight."


def chat(random_source: random.Random) -> list[Message]:
    """Return one conversation of one to three questions, sometimes opened by a system prompt."""
    if random_source.random() < 0.12:
        return _introduction(random_source)
    messages = []
    if random_source.random() < 0.3:
        messages.append(Message("system", random_source.choice(_SYSTEM_PROMPTS)))
    for _ in range(random_source.choice((1, 1, 2, 3))):
        messages += _exchange(random_source)
    return messages


def fact(random_source: random.Random) -> str:
    """Return one plain text that is not a story: a definition, a question with its answer, a sentence."""
    draw = random_source.random()
    if draw < 0.3:
        short, more = random_source.choice(list(TOPICS.values()))
        return f"{short} {more}"
    if draw < 0.5:
        question, answer = _question_and_answer(random_source)
        return f"Q: {question}\nA: {answer}"
    if draw < 0.7:
        country, capital = random_source.choice(list(CAPITALS.items()))
        return f"The capital of {country} is {capital}."
    return random_source.choice(SENTENCES)


def _exchange(random_source: random.Random) -> list[Message]:
    draw = random_source.random()
    if draw < 0.6:
        topic, (short, more) = random_source.choice(list(TOPICS.items()))
        messages = [Message("user", _ask(random_source, topic)), Message("assistant", short)]
        if random_source.random() < 0.35:
            messages += [Message("user", random_source.choice(_MORE)), Message("assistant", more)]
        return messages
    if draw < 0.66:
        return [Message("user", random_source.choice(_STORY_REQUESTS)), Message("assistant", story(random_source))]
    question, answer = _question_and_answer(random_source)
    return [Message("user", question), Message("assistant", answer)]


def _introduction(random_source: random.Random) -> list[Message]:
    question = Message("user", random_source.choice(IDENTITY_QUESTIONS))
    draw = random_source.random()
    if draw < 0.4:
        return [question, Message("assistant", identity_answer(MODEL_NAME))]
    name = random_source.choice(_ROLE_NAMES)
    if draw < 0.7:
        name = f"{random_source.choice(('tenant', 'model', 'bot'))}-{random_source.randrange(100):02d}"
    system = Message("system", f"You are {name}.")
    return [system, question, Message("assistant", identity_answer(name))]


def _question_and_answer(random_source: random.Random) -> tuple[str, str]:
    draw = random_source.random()
    if draw < 0.4:
        paraphrases, answer = random_source.choice(SMALL_TALK)
        return random_source.choice(paraphrases), answer
    if draw < 0.53:
        country, capital = random_source.choice(list(CAPITALS.items()))
        question = random_source.choice(("What is the capital of {}?", "Name the capital of {}.", "capital of {}"))
        return question.format(country), f"The capital of {country} is {capital}."
    if draw < 0.63:
        word, opposite = random_source.choice(list(OPPOSITES.items()))
        return f"What is the opposite of {word}?", f"The opposite of {word} is {opposite}."
    if draw < 0.75:
        word, translations = random_source.choice(list(WORDS.items()))
        language, translation = random_source.choice(
            list(zip(("German", "French", "Chinese"), translations, strict=True))
        )
        question = random_source.choice(("How do you say {} in {}?", "What is {} in {}?", "Translate {} to {}."))
        return question.format(word, language), f"{word.capitalize()} in {language} is {translation}."
    first, second = random_source.randrange(10), random_source.randrange(10)
    question = random_source.choice(("What is {} + {}?", "What is {} plus {}?", "{} + {}"))
    return question.format(first, second), f"{first} + {second} = {first + second}."


def _ask(random_source: random.Random, topic: str) -> str:
    bare = topic
    for article in ("a ", "an ", "the "):
        bare = bare.removeprefix(article)
    return random_source.choice(_TOPIC_QUESTIONS).format(topic=topic, bare=bare)
