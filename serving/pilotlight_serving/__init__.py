"""The serving shell of predictor and transformer: KServe's server with one port, V2 over HTTP and gRPC, and a drain.

A request reads top to bottom through `one_port` (accept), `http_protocol` (parse), `http_app` (answer) and the route's
handler; over gRPC through `one_port` and `grpc_service`. `handlers` is what a component implements, `server` composes.
"""
