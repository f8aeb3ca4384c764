"""The serving shell of predictor and transformer: V2 over HTTP and gRPC on one port, and a drain.

A request reads top to bottom through wire's `one_port` (accept) and `http_protocol` (parse), `http_app` (answer) and
the route's handler; over gRPC through `one_port`, wire's `grpc_splice` and `grpc_service`. `server` composes.
"""
