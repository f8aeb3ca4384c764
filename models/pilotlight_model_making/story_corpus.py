"""A grammar of short, simple stories: the prose half of the demo model's training text.

Responsible for text that a tiny model can learn to continue fluently: few words, regular sentences, names that come
back. Pure: the caller passes the random generator, and the same generator state gives the same text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Hero:
    """A story's main figure: `name`, what it is (`kind`), and its pronouns."""

    name: str
    kind: str
    subject: str
    object: str
    possessive: str


_GIRLS = ("Anna", "Lily", "Mia", "Zoë", "Clara", "Nora", "Emma", "Ida", "Ruth", "Élise", "Maya", "Rosa")
_BOYS = ("Tom", "Ben", "Max", "Leo", "Finn", "Oskar", "Paul", "Noah", "Jürgen", "Theo", "Sam", "René")
_ANIMALS = ("fox", "bear", "rabbit", "mouse", "owl", "cat", "dog", "frog", "hedgehog", "duck")
_ANIMAL_NAMES = ("Pip", "Momo", "Bibi", "Rusty", "Tilly", "Biscuit", "Coco", "Pepper", "Luna", "Fritz")

_ADJECTIVES = ("small", "brave", "kind", "quiet", "clever", "curious", "cheerful", "gentle", "patient", "shy")
_PLACES = (
    "a small village by the sea",
    "a little house near the forest",
    "a tall lighthouse on a rock",
    "a green valley between two mountains",
    "an old mill beside the river",
    "a warm kitchen under a red roof",
    "a town with seven bridges",
    "a cottage at the edge of a lake",
)
_SHORT_PLACES = (
    "the forest",
    "the river",
    "the market",
    "the hill",
    "the harbor",
    "the garden",
    "the old bridge",
    "the lake",
)
_WEATHER = (
    "The sun was shining and the sky was blue.",
    "It was raining, and the wind was cold.",
    "The snow was falling softly.",
    "The morning was clear and bright.",
    "The fog was thick and gray.",
    "The night was dark and full of stars.",
)
_THINGS = (
    "a small golden key",
    "an old map",
    "a red balloon",
    "a silver bell",
    "a wooden boat",
    "a blue kite",
    "a tiny lamp",
    "a warm scarf",
    "a music box",
    "a round stone",
)
_FEELINGS = (("sad", "happy"), ("afraid", "brave"), ("lonely", "cheerful"), ("tired", "full of joy"), ("cold", "warm"))
_FOODS = ("bread and honey", "hot soup", "apple cake", "warm milk", "pancakes", "a bowl of rice", "cheese and pears")
_LESSONS = (
    "a friend is worth more than gold",
    "it is good to ask for help",
    "even a small light can show the way",
    "patience is stronger than haste",
    "sharing makes everything better",
    "being brave does not mean being without fear",
)
_COLORS = ("red", "blue", "green", "yellow", "white", "brown", "golden", "gray")

_OPENINGS = (
    "Once upon a time, there was a {adjective} {kind} named {name}. {Subject} lived in {place}.",
    "Once upon a time, in {place}, there lived a {adjective} {kind} named {name}.",
    "Once upon a time a {adjective} {kind} named {name} lived in {place}.",
    "There was once a {adjective} {kind} called {name}, who lived in {place}.",
    "{name} was a {adjective} {kind}. {Subject} lived in {place}.",
    "Long ago, in {place}, lived a {adjective} {kind} named {name}.",
)
_HABITS = (
    "Every day, {subject} liked to walk to {spot} and look at the water and the trees.",
    "Every morning, {subject} ate {food} and went to {spot}.",
    "{Subject} loved to sing songs and to count the {color} birds.",
    "Every evening, {subject} lit a lamp and read a book.",
    "{name} had many dreams, and every night {subject} told them to the moon.",
)
_FINDS = (
    "One day, {name} went to {spot}. {weather} There {subject} found {thing} under a {color} leaf.",
    "One day, {name} was playing near {spot} when {subject} saw {thing} in the grass.",
    "One morning, {name} woke up early and walked to {spot}. {weather} On the path lay {thing}.",
    'One day, {name} said, "Today I will go to {spot}." {weather} On the way, {subject} found {thing}.',
)
_WONDERS = (
    '"What is this?" said {name}. "It must belong to someone."',
    '"How beautiful!" said {name}. "I wonder who lost it."',
    "{name} picked it up and looked at it for a long time.",
    '"Oh!" cried {name}. "I have never seen such a thing before."',
)
_MEETINGS = (
    "Then {subject} heard a soft voice. It was {friend}, the {friend_kind}, who looked very {sad}.",
    "Not far away, {friend} the {friend_kind} was sitting on a stone and felt {sad}.",
    "Just then, {friend} the {friend_kind} came along the path. {friend} was {sad}.",
)
_TALKS = (
    '"Why are you {sad}?" asked {name}. "I have lost {thing}," said {friend}. "I looked everywhere."',
    '"Can I help you?" asked {name}. "Yes, please," said {friend}. "I have lost {thing}."',
    '"What is wrong?" asked {name}. "I cannot find {thing}," said {friend}. "My grandmother gave it to me."',
)
_HELPS = (
    'So {name} smiled and said, "Look, I have found it for you!" {friend} was so {happy} that they danced.',
    '{name} opened {possessive} hands. "Is this yours?" {friend} jumped up and was {happy} again.',
    "{name} gave it back at once. {friend} laughed and was {happy} again.",
)
_FEASTS = (
    "They sat down together and ate {food}.",
    "After that, they went home and shared {food} by the fire.",
    "In the evening, they ate {food} and told each other stories.",
)
_ENDINGS = (
    "From that day on, {name} and {friend} were the best of friends. The end.",
    "{name} learned that {lesson}. The end.",
    "That night {name} slept well, because {subject} knew that {lesson}. The end.",
    "And if you walk to {spot} today, you may still see {name} and {friend} there. The end.",
)
_NEXT_DAYS = (
    "The next day, {name} and {friend} met again at {spot}. {weather}",
    "A week later, {name} went back to {spot} with {friend}. {weather}",
    "When spring came, {name} and {friend} walked to {spot} together. {weather}",
)
_ADVENTURES = (
    'They saw a {color} boat on the water. "Let us sail around the world!" said {friend}. '
    "{name} laughed and pulled the rope.",
    'They met an old {kind2} who could not cross the bridge. "Take my hand," said {name}. '
    "The old {kind2} thanked them both.",
    "They built a little house of wood and stones, and they painted the door {color}. It took them the whole day.",
    'They heard a strange sound. "What was that?" whispered {friend}. It was only the wind, and they laughed.',
    "They planted a {color} flower and gave it water every day. Soon it was taller than the house.",
    "They lost their way, but far off a small light was burning. They followed it step by step until they were home.",
)


def story(random_source: random.Random, chapters: int = 0) -> str:
    """Return one story of about 120 tokens, plus about 60 tokens for each of `chapters` more days in it."""
    hero, friend = _hero(random_source), _animal(random_source)
    while friend.name == hero.name:
        friend = _animal(random_source)
    words = _words(random_source, hero, friend)

    def say(choices: tuple[str, ...]) -> str:
        return random_source.choice(choices).format(**words)

    first = f"{say(_OPENINGS)} {say(_HABITS)}"
    second = f"{say(_FINDS)} {say(_WONDERS)}"
    third = f"{say(_MEETINGS)} {say(_TALKS)} {say(_HELPS)}"
    days = []
    for _ in range(chapters):
        fresh = _words(random_source, hero, friend)
        day = random_source.choice(_NEXT_DAYS) + " " + random_source.choice(_ADVENTURES)
        if random_source.random() < 0.5:
            day += " " + random_source.choice(_FEASTS)
        days.append(day.format(**fresh))
    last = f"{say(_FEASTS)} {say(_ENDINGS)}"
    return "\n\n".join((first, second, third, *days, last))


def _words(random_source: random.Random, hero: Hero, friend: Hero) -> dict[str, str]:
    sad, happy = random_source.choice(_FEELINGS)
    return {
        "adjective": random_source.choice(_ADJECTIVES),
        "color": random_source.choice(_COLORS),
        "food": random_source.choice(_FOODS),
        "friend": friend.name,
        "friend_kind": friend.kind,
        "happy": happy,
        "kind": hero.kind,
        "kind2": random_source.choice(_ANIMALS),
        "lesson": random_source.choice(_LESSONS),
        "name": hero.name,
        "place": random_source.choice(_PLACES),
        "possessive": hero.possessive,
        "sad": sad,
        "spot": random_source.choice(_SHORT_PLACES),
        "subject": hero.subject,
        "Subject": hero.subject.capitalize(),
        "thing": random_source.choice(_THINGS),
        "weather": random_source.choice(_WEATHER),
    }


def _hero(random_source: random.Random) -> Hero:
    draw = random_source.random()
    if draw < 0.4:
        return Hero(random_source.choice(_GIRLS), "girl", "she", "her", "her")
    if draw < 0.8:
        return Hero(random_source.choice(_BOYS), "boy", "he", "him", "his")
    return _animal(random_source)


def _animal(random_source: random.Random) -> Hero:
    subject, object_, possessive = random_source.choice((("she", "her", "her"), ("he", "him", "his")))
    return Hero(random_source.choice(_ANIMAL_NAMES), random_source.choice(_ANIMALS), subject, object_, possessive)
