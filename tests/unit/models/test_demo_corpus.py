"""The training text: the same seed gives the same text, and no template is left unfilled."""

import random
from itertools import islice

from pilotlight_model_making.chat_corpus import chat, identity_answer
from pilotlight_model_making.story_corpus import story
from pilotlight_model_making.training import documents


def test_the_same_seed_gives_the_same_documents() -> None:
    first, second, other = (list(islice(documents(random.Random(seed)), 50)) for seed in (3, 3, 4))
    assert first == second != other


def test_no_placeholder_is_left_in_a_story() -> None:
    texts = [story(random.Random(seed), chapters=seed % 5) for seed in range(300)]
    assert not [text for text in texts if "{" in text or "}" in text]


def test_a_story_with_more_chapters_is_longer() -> None:
    lengths = [len(story(random.Random(1), chapters)) for chapters in (0, 3, 8)]
    assert lengths == sorted(lengths)


def test_a_chat_alternates_between_user_and_assistant_after_an_optional_system_prompt() -> None:
    for seed in range(300):
        roles = [message.role for message in chat(random.Random(seed))]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert turns


def test_an_introduction_says_the_name() -> None:
    assert identity_answer("tenant-07").startswith("I am tenant-07.")
