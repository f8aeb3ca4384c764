"""The responses of OpenAI's Responses that are kept: of whoever made them, and as all replicas know them."""
