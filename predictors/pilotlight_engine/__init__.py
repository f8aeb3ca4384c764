"""An engine: the host process that wraps vLLM, the client that talks to it, and leasing one from a warm pool.

floors, each importing only those below: leasing, client | host, vllm_adapter, boot, swap, process, contract.
"""
