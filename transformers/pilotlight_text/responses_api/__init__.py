"""OpenAI's Responses over the conversation core; imported when the first of its requests comes."""
