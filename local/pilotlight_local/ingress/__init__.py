"""The one port clients speak to: routes, HTTP/1.1 and gRPC, down to an activator."""
