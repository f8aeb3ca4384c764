"""The way through an endpoint's own pods: a request passed on to the platform's ingress."""
