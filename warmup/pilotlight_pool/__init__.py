"""Warm pool and model prefetch: the store, engine slots, leases, and the policy that keeps them warm."""
