"""V2 by gRPC at the gateway: a call is a request of the pipeline, as REST has it, and its answer read back."""
