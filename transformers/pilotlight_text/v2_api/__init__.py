"""V2 infer, generate and generate_stream over a text model."""
