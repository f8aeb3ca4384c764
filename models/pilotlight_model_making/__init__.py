"""Makes the demo model, and models like it of any size, for scripts, tests and benchmarks. Not in the wheel.

story_corpus, topics, chat_corpus   the training text
byte_level_tokenizer                the tokenizer and its chat template
llama, training                     the network and how it is trained
awq_packing, awq_calibration        4-bit quantization
checkpoint                          the Hugging Face layout on disk
"""
