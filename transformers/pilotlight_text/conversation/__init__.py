"""A conversation, answered: from messages and tools to a prompt, and from its continuation to the parts of each choice.

What `/chat/completions` and every other surface stand on. It must not know how a surface writes a request or an answer.
"""
