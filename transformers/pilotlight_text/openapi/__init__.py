"""The OpenAPI document's part of the routes over text, for whoever answers them."""
