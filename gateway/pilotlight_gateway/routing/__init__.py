"""Which endpoint answers for a name that an operator has given to several of them."""
